import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dncbm.keys import hash_of, read_keys
from pipelines.cli import app


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(item) for item in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return invoke


def test_keys_are_made_listed_and_revoked(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.toml"
    monkeypatch.setenv("DNCBM_KEYS_FILE", str(file))
    shown = run("keys", "add", "shop", "--scope", "predict", "--expires", "2099-01-31")
    text = shown.splitlines()[-1]
    (key,) = read_keys(file)
    assert key.hash == hash_of(text.encode())
    assert str(key.expires) == "2099-01-31 00:00:00+00:00"
    assert run("keys", "list").strip() == "shop: predict, until 2099-01-31T00:00:00+00:00"
    made = json.loads(run("keys", "add", "boss", "--scope", "admin", "--json"))
    assert made["key"].startswith("dncbm_")
    listed = json.loads(run("keys", "list", "--json"))["keys"]
    assert [item["name"] for item in listed] == ["shop", "boss"]
    assert made["key"] not in json.dumps(listed)
    assert "Revoked 'shop'" in run("keys", "revoke", "shop")
    assert [key.name for key in read_keys(file)] == ["boss"]


def test_settings_are_printed_with_their_source(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "dncbm.toml"
    file.write_text("waiting = 3\n")
    monkeypatch.setenv("DNCBM_API_KEY", "s3cret")
    monkeypatch.setenv("DNCBM_WAITINGS", "3")
    shown = run(
        "serve", tmp_path, "--config", file, "--port", 9000, "--backend", "onnx", "--print-settings"
    )
    assert "s3cret" not in shown
    assert 'backend = "onnx"  # command line' in shown
    assert "port = 9000  # command line" in shown
    assert f"waiting = 3  # {file}" in shown
    assert "nearest is DNCBM_WAITING" in shown
