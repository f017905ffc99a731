import subprocess
import sys
from pathlib import Path

import pytest

from api import asgi
from api.configuration import load_settings
from api.main import create_app
from api.registry import Registry
from api.settings import ServiceOptions
from dncbm.errors import InvalidInput, Unavailable
from tests.api.conftest import client_for
from tests.api.fakes import make_model_directory


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL_DIR", "API_KEY", "CONCURRENCY", "MAX_PIXELS"):
        monkeypatch.delenv(f"DNCBM_{name}", raising=False)


def test_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "MODEL_DIR": str(tmp_path),
        "API_KEY": "s3cret",
        "MAX_UPLOAD_BYTES": "1000",
        "MAX_PIXELS": "2000",
        "MAX_IMAGES": "3",
        "CONCURRENCY": "4",
        "WAITING": "5",
        "WAIT_SECONDS": "0.5",
        "READ_SECONDS": "7.5",
    }.items():
        monkeypatch.setenv(f"DNCBM_{name}", value)
    settings = load_settings().settings
    assert settings.model_dir == tmp_path
    assert "s3cret" not in repr(settings)
    assert settings.options() == ServiceOptions(
        max_upload_bytes=1000,
        max_pixels=2000,
        max_images=3,
        concurrency=4,
        waiting=5,
        wait_seconds=0.5,
        read_seconds=7.5,
        state_dir=tmp_path / ".dncbm",
        api_key="s3cret",
    )


def test_missing_model_directory_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"DNCBM_MODEL_DIR: .*`dncbm serve DIR`"):
        asgi.application()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONCURRENCY", "0"),
        ("MAX_PIXELS", "many"),
        ("API_KEY", ""),
        ("WAIT_SECONDS", "inf"),
        ("READ_SECONDS", "0"),
    ],
)
def test_bad_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv(f"DNCBM_{name}", value)
    with pytest.raises(InvalidInput, match=f"DNCBM_{name}"):
        asgi.application()


def test_directory_without_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(tmp_path))
    with pytest.raises(InvalidInput, match="not a model directory"):
        asgi.application()


def test_damaged_model_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dncbm.errors import DncbmError

    monkeypatch.setenv("DNCBM_MODEL_DIR", str(make_model_directory(tmp_path / "m")))
    with pytest.raises(DncbmError):
        asgi.application()


def test_import_is_light() -> None:
    code = (
        "import sys, api.main, api.asgi; "
        "heavy = {'open_clip', 'faiss', 'dncbm.predictor'} & set(sys.modules); "
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_model_is_not_ready() -> None:
    client = client_for(create_app(Registry([])))
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    page = client.get("/")
    assert page.status_code == 200
    assert "No model is loaded" in page.text


@pytest.mark.parametrize("name", ["DRIFT", "LAZY"])
def test_what_needs_a_state_is_refused_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    root = make_model_directory(tmp_path / "clothing")
    (root / ".dncbm").write_text("a file where the state folder would be")
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(root))
    monkeypatch.delenv("DNCBM_STATE_DIR", raising=False)
    monkeypatch.delenv("DNCBM_DATABASE_URL", raising=False)
    monkeypatch.setenv(f"DNCBM_{name}", "1")
    with pytest.raises(Unavailable, match=rf"DNCBM_{name} needs the state folder.*DNCBM_STATE_DIR"):
        asgi.application()
