"""Every door answers bad input with what is wrong, the value, the rule and the next step."""

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from dncbm.artifacts import load_manifest
from dncbm.data.concept_world import write_concept_world
from dncbm.errors import InvalidInput
from dncbm.predictor import _require_images
from tests.end_to_end.conftest import WORDS, command, environment


def photo(path: Path, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), colour).save(path)
    return path


def two_classes(root: Path, each: int = 4) -> Path:
    for position in range(each):
        photo(root / "red" / f"{position}.png", (200, 10 * position, 0))
        photo(root / "blue" / f"{position}.png", (0, 10 * position, 200))
    return root


def empty_folder(root: Path) -> list[object]:
    (root / "photos").mkdir()
    return ["--data", root / "photos"]


def one_class(root: Path) -> list[object]:
    for position in range(4):
        photo(root / "photos" / "red" / f"{position}.png")
    return ["--data", root / "photos"]


def no_classes(root: Path) -> list[object]:
    photo(root / "photos" / "a.png")
    return ["--data", root / "photos"]


def one_image_per_class(root: Path) -> list[object]:
    return ["--data", two_classes(root / "photos", each=1)]


def missing_folder(root: Path) -> list[object]:
    return ["--data", root / "absent"]


def all_broken(root: Path) -> list[object]:
    for label in ("red", "blue"):
        for position in range(4):
            path = root / "photos" / label / f"{position}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not an image")
    return ["--data", root / "photos"]


def wrong_encoder(root: Path) -> list[object]:
    return ["--data", two_classes(root / "photos"), "--encoder", "ViT-B-33:openai"]


def wrong_tag(root: Path) -> list[object]:
    return ["--data", two_classes(root / "photos"), "--encoder", "ViT-B-32:opena"]


def wrong_preset(root: Path) -> list[object]:
    return ["--data", two_classes(root / "photos"), "--sae-preset", "defaul"]


def wrong_override(root: Path) -> list[object]:
    return ["--data", two_classes(root / "photos"), "--set", "sae.nonsense=1"]


def malformed_override(root: Path) -> list[object]:
    return ["--data", two_classes(root / "photos"), "--set", "nonsense"]


def unknown_device(root: Path) -> list[object]:
    return ["--data", two_classes(root / "photos"), "--device", "cud"]


def one_word(root: Path) -> list[object]:
    (root / "words.txt").write_text("dog\n\n  \ndog\n")
    return ["--data", two_classes(root / "photos"), "--vocabulary", root / "words.txt"]


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (empty_folder, 2, "No images in"),
        (one_class, 2, "one class ('red'); a classifier needs at least two"),
        (no_classes, 2, "no class labels"),
        (one_image_per_class, 2, "each class needs at least 3 photos"),
        (missing_folder, 2, "does not exist"),
        (all_broken, 2, "images can be read"),
        (wrong_encoder, 2, "ViT-B-32"),
        (wrong_tag, 2, "openai"),
        (wrong_preset, 2, "default"),
        (wrong_override, 2, "nonsense"),
        (malformed_override, 2, "not of the form"),
        (unknown_device, 2, "Unknown device 'cud'"),
        (one_word, 2, "at least 2"),
    ],
)
def test_quickstart_refuses_bad_input(dncbm, tmp_path: Path, arguments, code, shown) -> None:
    out = tmp_path / "out"
    done = dncbm("quickstart", *arguments(tmp_path), "--out", out, "--workers", 0)
    assert done.code == code, done.err
    assert shown in done.message
    assert "Traceback" not in done.err
    assert not (out / "embeddings").exists(), "refused only after the work"


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("sae.k=abc", "SAE k is 'abc'; it must be a whole number"),
        ('probe.necs=["x"]', "probe necs is ['x']; it must be a list of which each is"),
        ("naming.min_margin=wide", "naming min_margin is 'wide'; it must be a number"),
    ],
)
def test_overrides_of_another_type_are_named(tmp_path: Path, override: str, shown: str) -> None:
    # In a process of its own: here beartype would speak first.
    data = two_classes(tmp_path / "photos")
    arguments = ("quickstart", "--data", data, "--out", tmp_path / "out", "--set", override)
    done = subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert shown in " ".join(done.stderr.split())


def test_options_that_do_not_parse_exit_with_two(dncbm) -> None:
    assert dncbm("quickstart", "--seed", "x").code == 2
    assert dncbm("nonsense").code == 2


def test_a_read_only_output_is_refused_before_the_work(dncbm, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    data = two_classes(tmp_path / "photos")
    done = dncbm("quickstart", "--data", data, "--out", tmp_path / "file" / "model")
    assert done.code == 1
    assert "Cannot write to" in done.message


def test_a_few_broken_photos_are_skipped_and_counted(dncbm, tmp_path: Path) -> None:
    write_concept_world(tmp_path / "photos", num_images=80, size=48, seed=2)
    folder = next((tmp_path / "photos" / "train").iterdir())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    done = dncbm(
        "quickstart", "--data", tmp_path / "photos", "--out", tmp_path / "m",
        "--workers", 0, "--json", "--set", "sae.num_concepts=32", "--set", "sae.epochs=5",
        "--vocabulary", WORDS,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["images"] == {"embedded": 80, "broken": 1}


def test_the_parts_of_two_models_are_not_mixed(finished, dncbm, tmp_path: Path) -> None:
    out, _ = finished
    other = tmp_path / "other"
    shutil.copytree(out, other)
    done = dncbm(
        "discover", other, "--seed", "5", "--set", "sae.num_concepts=40", "--set", "sae.epochs=5"
    )
    assert done.code == 0, done.err
    done = dncbm("predict", other, next(out.glob("dictionary/thumbnails/*.jpg")))
    assert done.code == 1
    assert "was made with sae" in done.message
    done = dncbm("evaluate", other)
    assert done.code == 1
    assert "was made with sae" in done.message
    done = dncbm("doctor", other, "--json")
    assert done.code == 1
    assert done.json["model"]["dictionary"].startswith("stale: made with sae")
    assert done.json["model"]["embeddings"].startswith("whole")


def test_embeddings_that_were_made_again_are_noticed_everywhere(
    finished, dncbm, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(finished[0], model)
    before = json.loads((model / "recipe.json").read_text())
    done = dncbm("embed", "--data", before["data"], "--out", model, "--workers", 0, "--seed", 9)
    assert done.code == 0, done.err
    after = json.loads((model / "recipe.json").read_text())
    assert after == before | {"seed": 9}, "what later stages were told is kept"
    if (
        load_manifest(model / "embeddings").fingerprint
        == load_manifest(finished[0] / "embeddings").fingerprint
    ):
        photo(model.parent / "photos" / "a" / "x.png")
        two_classes(model.parent / "photos")
        done = dncbm("embed", "--data", model.parent / "photos", "--out", model, "--workers", 0)
        assert done.code == 0, done.err
    for stage in ("report", "name", "bottleneck", "evaluate"):
        done = dncbm(stage, model)
        assert done.code == 1, stage
        assert "was made with embeddings" in done.message, stage


def test_a_report_of_an_older_classifier_is_stale(finished, dncbm, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(finished[0], model)
    assert dncbm("bottleneck", model, "--set", "probe.necs=[3]").code == 0
    done = dncbm("doctor", model, "--json")
    assert done.code == 1
    assert done.json["model"]["report"].startswith("stale: made with cbm")


def test_the_library_says_how_to_give_images() -> None:
    for wrong in ("x.jpg", [Path("x.jpg")], Image.new("RGB", (4, 4)), None):
        with pytest.raises(InvalidInput, match="must be a list of PIL images, got"):
            _require_images(wrong)
    _require_images([Image.new("RGB", (4, 4))])
    _require_images([])


def test_a_model_that_is_not_there(dncbm, tmp_path: Path) -> None:
    done = dncbm("predict", tmp_path / "absent", photo(tmp_path / "p.png"))
    assert done.code == 1
    assert "does not exist" in done.message
    done = dncbm("doctor", tmp_path / "absent")
    assert done.code == 2
    assert "does not exist" in done.message


def test_predict_refuses_what_is_no_image_or_no_model(finished, dncbm, tmp_path: Path) -> None:
    out, _ = finished
    (tmp_path / "text.jpg").write_text("hello")
    done = dncbm("predict", out, tmp_path / "text.jpg")
    assert done.code == 2
    assert "image" in done.message
    done = dncbm("predict", out, tmp_path / "absent.jpg")
    assert done.code == 2
    assert "Cannot read the image" in done.message
    (tmp_path / "nothing").mkdir()
    done = dncbm("predict", out, tmp_path / "nothing")
    assert done.code == 2
    assert "No images in the folder" in done.message
    done = dncbm("predict", tmp_path, photo(tmp_path / "p.png"))
    assert done.code == 1
    assert "holds no model" in done.message
    done = dncbm("predict", out, photo(tmp_path / "p.png"), "--nec", "7")
    assert done.code == 2
    assert "5" in done.message


def test_stages_out_of_order_say_what_to_run_first(dncbm, tmp_path: Path) -> None:
    for stage in ("discover", "name", "bottleneck", "report", "evaluate"):
        done = dncbm(stage, tmp_path / "nothing")
        assert done.code == 1, stage
        assert "Traceback" not in done.err


def test_a_port_in_use_is_named(finished, dncbm) -> None:
    out, _ = finished
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = dncbm("serve", out, "--port", port)
    assert done.code == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in done.message


def test_a_tag_that_needs_the_network_says_so_where_there_is_none(dncbm, tmp_path: Path) -> None:
    data = two_classes(tmp_path / "photos")
    done = dncbm("quickstart", "--data", data, "--out", tmp_path / "m", "--encoder", "RN50:openai")
    if done.code == 0:
        pytest.skip("this machine has a network")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "mini" in done.message
