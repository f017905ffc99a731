"""Encoders that are folders of this machine travel with the models that were made with them."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from dncbm.artifacts import create_artifact
from dncbm.bcos.convert import ConvertOptions, convert
from dncbm.bcos.store import Blueprint, save_bcos
from dncbm.data.images import decode_image
from dncbm.data.views import Views
from dncbm.encoders.carried import candidates, carried
from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.errors import ArtifactError, ArtifactMismatch
from dncbm.predictor import Predictor
from dncbm.registry.bundle import export_model
from dncbm.registry.unpack import import_model
from tests.api.fakes import photo
from tests.unit.curation.conftest import write_model
from tests.unit.encoders.tiny import tiny_encoder, write_model_folder


def write_student(folder: Path, base: Encoder) -> Encoder:
    """A B-cosified copy of a tiny encoder, as `dncbm bcosify` leaves it."""
    options = ConvertOptions(check=False)
    config = base.preprocess_config
    save_bcos(
        folder / "bcos",
        convert(base.image_tower(), options),
        Blueprint(family="encoder", name=base.spec, conversion=asdict(options)),
        Views(size=base.image_size[0], mean=tuple(config["mean"]), std=tuple(config["std"])),
        inputs={"model": base.fingerprint},
    )
    return load_encoder(f"bcos:{folder}", device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a student and a model of it, which names it by its place; and a copy."""
    root, copy = tmp_path_factory.mktemp("made") / "root", tmp_path_factory.mktemp("copy") / "root"
    encoder = write_student(root / "student", tiny_encoder(root / "base"))
    write_model(root / "models" / "insects", encoder=encoder)
    return root, Path(shutil.copytree(root, copy))


@pytest.fixture
def model(made: tuple[Path, Path]) -> Path:
    root, copy = made
    shutil.rmtree(root)
    shutil.copytree(copy, root)
    return root / "models" / "insects"


@pytest.fixture
def student(model: Path) -> Path:
    return model.parents[1] / "student"


@pytest.mark.parametrize(
    ("spec", "is_told"),
    [
        ("local-dir:{0}", True),
        ("ViT-B-32:{0}/weights.safetensors", True),
        ("ViT-B-32:openai@{0}/weights.safetensors", True),
        ("ViT-B-32:{0}/a@b/weights.safetensors", True),
        ("ViT-B-32:openai", False),
        ("ViT-B-32:{0}/gone.safetensors", False),
        ("hf-hub:org/name", False),
        ("mini", False),
    ],
)
def test_weights_that_stay_behind_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spec: str, is_told: bool
) -> None:
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "open_clip_config.json").touch()
    (tmp_path / "a@b").mkdir()
    (tmp_path / "a@b" / "weights.safetensors").touch()
    assert carried(spec.format(tmp_path), tmp_path) == {}
    assert ("at the same place" in caplog.text) == is_told
    assert (str(tmp_path) in caplog.text) == is_told


@pytest.mark.parametrize("form", ["bundle.zip", "bundle"])
@pytest.mark.parametrize("training", [True, False])
def test_a_model_opens_where_its_encoder_is_not(
    model: Path, student: Path, tmp_path: Path, form: str, training: bool
) -> None:
    image = decode_image(photo(3))
    before = Predictor.load(model, device="cpu")
    out = export_model(model, tmp_path / "out" / form, training=training)
    student.rename(tmp_path / "elsewhere")
    shutil.rmtree(model)
    back = import_model(out, tmp_path / "there", name="insects")
    assert (back / "bcos" / "manifest.json").is_file()
    after = Predictor.load(back, device="cpu")
    assert after.encoder.spec == f"bcos:{back / 'bcos'}"
    assert after.encoder.fingerprint == before.encoder.fingerprint
    assert after.predict([image]) == before.predict([image])
    [[mine]], [[theirs]] = (one.explain([image], classes=["ant"]) for one in (after, before))
    assert mine.exact
    assert (mine.map == theirs.map).all()
    total = float(mine.map.sum()) + mine.position + mine.bias
    assert total == pytest.approx(mine.value, abs=1e-4)
    # and it can be carried on from there
    again = export_model(back, tmp_path / "again" / form, name="insects", training=training)
    if again.is_file():
        assert again.read_bytes() == out.read_bytes()


def test_a_gone_encoder_is_no_bundle(model: Path, student: Path, tmp_path: Path) -> None:
    student.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"The encoder bcos:.*student is gone"):
        export_model(model, tmp_path / "out")
    shutil.copytree(tmp_path / "elsewhere" / "bcos", model / "bcos")  # moved by hand
    assert Predictor.load(model, device="cpu").encoder.spec == f"bcos:{model / 'bcos'}"
    export_model(model, tmp_path / "out")


def test_another_network_beside_the_model_is_not_its_encoder(
    model: Path, student: Path, tmp_path: Path
) -> None:
    base = load_encoder(f"local-dir:{write_model_folder(tmp_path / 'b', seed=1)}", device="cpu")
    write_student(tmp_path / "other", base)
    shutil.copytree(tmp_path / "other" / "bcos", model / "bcos")
    with pytest.raises(ArtifactError, match=r"bcos is not the encoder of this model"):
        export_model(model, tmp_path / "out")
    assert Predictor.load(model, device="cpu").encoder.spec == f"bcos:{student}"
    student.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactMismatch, match="encoder"):
        Predictor.load(model, device="cpu")


def write_trained(folder: Path, text: str | None) -> Path:
    """An artifact of the kind `encoder` that names the encoder of its texts."""
    config = {"text": None if text is None else {"encoder": text, "fingerprint": "f"}}
    with create_artifact(folder / "encoder", "encoder", config=config, inputs={}) as draft:
        (draft.path / "weights").write_text("w")
    return folder


def test_all_that_an_encoder_was_made_of_is_carried(student: Path, tmp_path: Path) -> None:
    made = write_trained(tmp_path / "made", f"bcos:{student}")
    nowhere = tmp_path / "nowhere"
    for spec in (f"trained:{made}", f"trained:{made}/encoder", str(made)):
        found = carried(spec, nowhere)
        assert found == {"encoder": made / "encoder", "bcos": student / "bcos"}
    assert carried("mini", nowhere) == carried("ViT-B-32:openai", nowhere) == {}
    assert carried(f"local-dir:{student.parent / 'base'}", nowhere) == {}
    alone = write_trained(tmp_path / "alone", None)
    assert carried(str(alone), nowhere) == {"encoder": alone / "encoder"}
    twice = write_trained(tmp_path / "twice", f"trained:{alone}")
    with pytest.raises(ArtifactError, match="made of two of the kind 'encoder'"):
        carried(f"trained:{twice}", nowhere)


def test_copies_are_tried_before_originals(tmp_path: Path) -> None:
    made, model = write_trained(tmp_path / "made", None), tmp_path / "model"
    spec, copy = f"trained:{made}", f"trained:{model / 'encoder'}"
    assert candidates(spec, model) == (spec,)
    assert candidates(spec, made) == (spec,)  # the original lies beside the model
    write_trained(model, None)
    assert candidates(spec, model) == (copy, spec)
    assert candidates(str(made), model) == (copy, str(made))
    shutil.rmtree(made)
    assert candidates(spec, model) == candidates(str(made), model) == (copy,)
    assert candidates("mini", model) == ("mini",)
