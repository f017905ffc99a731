"""The main job, from a folder of photos to named contributions, through the real commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dncbm as library
from dncbm.artifacts import load_manifest, package_version, verify_files
from dncbm.data.concept_world import CONCEPTS
from tests.end_to_end.conftest import SMALL, WORDS

PARTS = ("embeddings", "vocabulary", "sae", "dictionary", "cbm", "report")


def test_the_json_line_keeps_its_contract(finished) -> None:
    out, done = finished
    result = done.json
    assert {"zero_shot", "linear_probe", "dncbm", "nec5", "nec10"} <= set(result["accuracy"])
    assert all(0 <= value <= 1 for value in result["accuracy"].values())
    assert {"unexplained_variance", "l0", "dead_fraction", "num_concepts"} <= set(result["sae"])
    # what is told is measured on photos that did not train the autoencoder
    assert result["sae"]["unexplained_variance"] > result["sae"]["unexplained_variance_train"]
    assert 0 < load_manifest(out / "cbm").metrics["sae"]["accuracy_kept"] <= 1.2
    assert {"named_fraction", "unique_names", "mean_score"} <= set(result["naming"])
    assert Path(result["report"]).is_file()
    assert {"embed", "discover", "name", "bottleneck", "report"} <= set(result["seconds"])


def test_every_artifact_is_whole_and_knows_its_inputs(finished) -> None:
    out, _ = finished
    manifests = {part: load_manifest(out / part) for part in PARTS}
    for part, manifest in manifests.items():
        verify_files(out / part, manifest)
    assert manifests["cbm"].inputs["sae"] == manifests["sae"].fingerprint
    assert manifests["cbm"].inputs["dictionary"] == manifests["dictionary"].fingerprint
    assert manifests["sae"].inputs["embeddings"] == manifests["embeddings"].fingerprint


def test_contributions_bias_and_remainder_sum_to_the_logit(finished, photos: Path, dncbm) -> None:
    out, _ = finished
    photo = next(photos.glob("test/*/*"))
    done = dncbm("predict", out, photo, "--top", 3, "--json")
    assert done.code == 0, done.err
    (prediction,) = done.json["predictions"]
    parts = [item["contribution"] for item in prediction["contributions"]]
    assert len(parts) <= 3
    assert prediction["bias"] + sum(parts) + prediction["remainder"] == prediction["logit"]
    table = dncbm("predict", out, photo)
    assert prediction["class"] in table.out
    assert "all other concepts" in table.out


def test_decisions_by_name_are_the_same_sums_in_fewer_parts(finished, photos: Path, dncbm) -> None:
    out, _ = finished
    answers = {}
    for by in ("concept", "name"):
        done = dncbm("predict", out, photos / "test", "--top", 99, "--by", by, "--json")
        assert done.code == 0, done.err
        answers[by] = done.json["predictions"]
    merged = 0
    for single, named in zip(answers["concept"], answers["name"], strict=True):
        alone = {part["concept"]: part["contribution"] for part in single["contributions"]}
        sizes = [part["contribution"] for part in named["contributions"]]
        assert named["bias"] + sum(sizes) + named["remainder"] == named["logit"] == single["logit"]
        for part in named["contributions"]:
            members = part["concepts"] or [part["concept"]]
            assert part["contribution"] == sum(alone[concept] for concept in members)
            merged += bool(part["concepts"])
    assert merged > 0
    refused = dncbm("predict", out, photos / "test", "--by", "word")
    assert refused.code == 2
    assert "Unknown value of `by` 'word'" in refused.message


def test_maps_of_photos_are_pictures_and_numbers(finished, photos: Path, dncbm, tmp_path) -> None:
    out, _ = finished
    photo = next(photos.glob("test/*/*"))
    plain = dncbm("explain", out, photo, "--json")
    assert "pixels" not in plain.json["predictions"][0]
    folder = tmp_path / "maps"
    done = dncbm("explain", out, photo, photo, "--pixels", "--top", 2, "--out", folder, "--json")
    assert done.code == 0, done.err
    first, again = done.json["predictions"]
    kinds = [item["kind"] for item in first["pixels"]["attributions"]]
    assert kinds == ["class", *["concept"] * len(first["contributions"])]
    assert first["pixels"]["attributions"][0]["name"] == first["class"]
    for item, name in ((first, photo.stem), (again, f"{photo.stem}-2")):
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width > 300
        with np.load(folder / f"{name}.npz") as numbers:
            assert numbers["maps"].shape == (len(kinds), 96, 96)
            values = [one["value"] for one in item["pixels"]["attributions"]]
            np.testing.assert_allclose(numbers["values"], values)
    told = dncbm("explain", out, photo, "--text", "a red car", "--out", folder)
    assert "text 'a red car'" in told.out
    assert "(post hoc, grad_cam)" in told.out
    refused = dncbm("explain", out, photo, "--class", "nothing", "--out", folder)
    assert refused.code == 2
    assert "Unknown class 'nothing'" in refused.message


def test_folders_are_opened_and_names_are_shown_as_they_are(
    finished, photos: Path, dncbm, tmp_path
) -> None:
    out, _ = finished
    folder = tmp_path / "we[bold]ird"
    folder.mkdir()
    for number, path in enumerate(sorted(photos.glob("test/*/*"))[:3]):
        shutil.copy(path, folder / f":x:{number}[red].jpg")
    (folder / "notes.txt").write_text("no photo")
    done = dncbm("predict", out, folder)
    assert done.code == 0, done.err
    for number in range(3):
        assert f"we[bold]ird/:x:{number}[red].jpg" in done.out
    concept = dncbm("predict", out, folder, "--json").json["predictions"][0]["contributions"][0]
    if concept["name"] != f"concept {concept['concept']}":
        assert f"{concept['name']} #{concept['concept']}" in done.out


def test_the_version_is_told(dncbm) -> None:
    done = dncbm("--version")
    assert done.code == 0
    assert done.out.split() == ["dncbm", package_version()]


def test_the_command_and_the_library_agree(finished, photos: Path, dncbm) -> None:
    out, _ = finished
    photo = next(photos.glob("test/*/*"))
    (from_command,) = dncbm("predict", out, photo, "--json").json["predictions"]
    from dncbm.data.images import decode_image

    predictor = library.load(out)
    ((best,),) = predictor.predict([decode_image(photo.read_bytes())])
    assert best.class_name == from_command["class"]
    assert best.logit == pytest.approx(from_command["logit"], abs=1e-6)


def test_a_second_run_reuses_every_stage(finished, photos: Path, dncbm) -> None:
    out, first = finished
    before = {part: load_manifest(out / part) for part in PARTS if part != "report"}
    again = dncbm("quickstart", "--data", photos, "--out", out, "--json", *SMALL)
    assert again.code == 0, again.err
    assert again.json["accuracy"] == first.json["accuracy"]
    for part, manifest in before.items():
        assert load_manifest(out / part).created == manifest.created


def test_the_stages_one_by_one_give_the_same_model(finished, photos: Path, dncbm, tmp_path) -> None:
    out, _ = finished
    model = tmp_path / "model"
    steps = [
        ("embed", "--data", photos, "--out", model, "--workers", 0, "--json"),
        ("discover", model, *SMALL[:4], "--json"),
        ("name", model, "--vocabulary", WORDS, "--json"),
        ("bottleneck", model, "--json"),
        ("report", model, "--json"),
    ]
    for step in steps:
        done = dncbm(*step)
        assert done.code == 0, done.err
    for part in ("embeddings", "sae", "dictionary", "cbm"):
        ours, theirs = load_manifest(model / part), load_manifest(out / part)
        assert ours.fingerprint == theirs.fingerprint, part
    scored = dncbm("evaluate", model, "--json").json
    stored = load_manifest(out / "cbm").metrics["test_accuracy"]
    assert scored["accuracy"]["dncbm"] == pytest.approx(stored["dncbm"])
    short = load_manifest(out / "cbm").metrics["short_decisions"]["dense"]["5"]
    assert scored["agreement_of_5"]["dncbm"] == pytest.approx(short["agreement"])
    assert {"head": "dncbm", "top": 5, **short} in scored["short_decisions"]
    fresh = dncbm("evaluate", model, "--data", photos / "test", "--json").json
    assert fresh["accuracy"] == pytest.approx(scored["accuracy"], abs=0.03)


def test_a_stage_runs_again_with_another_choice_and_keeps_the_others(
    finished, photos: Path, dncbm, tmp_path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(finished[0], model)
    steps = [
        ("discover", model, "--set", "sae.num_concepts=32"),
        ("discover", model, "--set", "sae.k=4", "--seed", 5),
        ("name", model, "--block", CONCEPTS[0], "--set", "naming.direction=both"),
        ("name", model, "--set", "naming.direction="),
        ("bottleneck", model, "--set", "probe.necs=[3]"),
    ]
    for step in steps:
        done = dncbm(*step)
        assert done.code == 0, done.err
    recipe = json.loads((model / "recipe.json").read_text())
    assert recipe["sae"] == {"num_concepts": 32, "epochs": 30, "k": 4, "seed": 5}
    assert recipe["blocked_words"] == [CONCEPTS[0]]
    assert recipe["naming"] == {}
    assert recipe["vocabulary"] == str(WORDS)
    assert recipe["probe"] == {"necs": [3]}
    assert load_manifest(model / "sae").config["training"]["k"] == 4
    refused = dncbm("discover", model, "--set", "sae.k=-1")
    assert refused.code == 2
    assert json.loads((model / "recipe.json").read_text()) == recipe
    wrong = dncbm("discover", model, "--set", "probe.necs=[3]")
    assert wrong.code == 2
    assert "is not of the form sae.FIELD=VALUE" in wrong.message


def test_a_recipe_file_runs_the_same_pipeline(finished, photos: Path, dncbm, tmp_path) -> None:
    out, _ = finished
    recipe = {
        "data": str(photos), "out": "model", "workers": 0, "vocabulary": str(WORDS),
        "sae": {"num_concepts": 48, "epochs": 30},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(recipe))
    done = dncbm("run", tmp_path / "run.json", "--json")
    assert done.code == 0, done.err
    ours, theirs = load_manifest(tmp_path / "model" / "cbm"), load_manifest(out / "cbm")
    assert ours.fingerprint == theirs.fingerprint


def test_the_paper_preset_runs_end_to_end(photos: Path, dncbm, tmp_path) -> None:
    done = dncbm(
        "quickstart", "--data", photos, "--out", tmp_path / "m", "--sae-preset", "dncbm-paper",
        "--naming-preset", "paper", "--solver", "paper", "--workers", 0, "--json",
        "--vocabulary", WORDS,
        "--set", "sae.epochs=20", "--set", "sae.num_concepts=64", "--set", "probe.epochs=10",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["naming"]["named_fraction"] == 1.0


def test_doctor_checks_an_installation_and_a_model(finished, dncbm) -> None:
    out, _ = finished
    done = dncbm("doctor", out, "--json")
    assert done.code == 0, done.err
    assert set(done.json["model"]) == set(PARTS)
    assert not str(done.json["encoder_mini"]).startswith("broken")


def test_without_photos_the_concept_world_is_rendered_and_scored(dncbm, tmp_path) -> None:
    recipe = {
        "out": "model", "workers": 0, "vocabulary": str(WORDS), "world_images": 100,
        "sae": {"num_concepts": 64, "epochs": 5},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(recipe))
    done = dncbm("run", tmp_path / "run.json")
    assert done.code == 0, done.err
    assert "Against the truth of the rendered scenes" in done.out
    assert (tmp_path / "model" / "concept-world" / "concepts.csv").is_file()
    assert "dncbm serve" in done.out
