import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dncbm.data.images import decode_image
from dncbm.errors import ArtifactError, InvalidInput, Unavailable
from dncbm.predictor import Predictor
from dncbm.registry.mlflow_flavour import load_model, log_model, save_model
from tests.api.fakes import photo
from tests.api.test_real_model import write_model

# MLflow's own warnings are not ours to mend
pytestmark = [pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "shoes")


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    mlflow = pytest.importorskip("mlflow", reason="needs MLflow: pip install mlflow-skinny")
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield tmp_path
    mlflow.set_tracking_uri(None)


def as_the_model_says(model: Path, photos: list[bytes]) -> list[tuple[str, float]]:
    predictor = Predictor.load(model, device="cpu")
    found = predictor.predict([decode_image(data) for data in photos])
    return [(best.class_name, best.probability) for best, *_ in found]


def test_saved_and_loaded(model: Path, tracking: Path) -> None:
    import mlflow.pyfunc
    import pandas

    save_model(model, tracking / "saved")
    photos = [photo(seed) for seed in range(3)]
    images = [photos[0], base64.b64encode(photos[1]).decode(), photos[2]]
    loaded = mlflow.pyfunc.load_model(str(tracking / "saved"))
    table = loaded.predict(pandas.DataFrame({"image": images}))
    answers = list(zip(table["class"], table["probability"], strict=True))
    expected = as_the_model_says(model, photos)
    assert [name for name, _ in answers] == [name for name, _ in expected]
    assert [p for _, p in answers] == pytest.approx([p for _, p in expected])
    parts = json.loads(table["contributions"][0])
    assert len(parts) == 5
    assert parts[0]["contribution"] == pytest.approx(parts[0]["code"] * parts[0]["weight"])

    predictor = load_model(str(tracking / "saved"))
    best = predictor.predict([Image.new("RGB", (20, 20))])[0][0]
    assert best.class_name in predictor.classes


def test_nothing_is_pickled(model: Path, tracking: Path) -> None:
    save_model(model, tracking / "saved")
    names = [path.name for path in (tracking / "saved").rglob("*") if path.is_file()]
    assert "cbm.json" in names
    assert [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))] == []
    for path in (tracking / "saved").rglob("*"):
        assert not path.is_file() or path.read_bytes()[:1] != b"\x80"
    assert (
        "loader_module: dncbm.registry.mlflow_flavour"
        in (tracking / "saved" / "MLmodel").read_text()
    )


def test_logged_to_a_run(model: Path, tracking: Path) -> None:
    import mlflow

    with mlflow.start_run():
        logged = log_model(model, "shoes", metadata={"by": "test"})
    assert load_model(logged.model_uri).classes == Predictor.load(model).classes
    assert logged.metadata == {"by": "test"}


def test_bad_input(model: Path, tracking: Path) -> None:
    import mlflow.pyfunc
    import pandas

    save_model(model, tracking / "saved")
    with pytest.raises(InvalidInput, match="exists already"):
        save_model(model, tracking / "saved")
    with pytest.raises(ArtifactError):
        save_model(tracking, tracking / "other")
    loaded = mlflow.pyfunc.load_model(str(tracking / "saved"))
    with pytest.raises(InvalidInput, match="no column 'image'"):
        loaded.predict(pandas.DataFrame({"x": [1]}))
    for wrong in ("no base64!", None, 3.5, b"no photo"):
        with pytest.raises(InvalidInput):
            loaded.predict(pandas.DataFrame({"image": [wrong]}))
    weights = next(path for path in (tracking / "saved").rglob("concepts.parquet"))
    weights.write_bytes(b"changed")
    with pytest.raises(ArtifactError, match="was changed"):
        load_model(str(tracking / "saved"))


def test_another_flavour_is_not_even_loaded(tracking: Path) -> None:
    (tracking / "other").mkdir()
    (tracking / "other" / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.model\n"
        "    python_model: evil.pkl\n"
    )
    (tracking / "other" / "evil.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(InvalidInput, match="is no model of dncbm"):
        load_model(str(tracking / "other"))


def test_without_mlflow(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    for call in (lambda: save_model(model, tmp_path / "x"), lambda: log_model(model),
                 lambda: load_model("x")):  # fmt: skip
        with pytest.raises(Unavailable, match="pip install mlflow-skinny"):
            call()
    assert os.listdir(tmp_path) == []
