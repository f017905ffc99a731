import tomllib
from pathlib import Path
from typing import get_args

import pytest

from api.configuration import describe, load_settings
from api.encoders import ALIASES
from api.settings import BackendName, Settings
from dncbm.encoders.backends.base import AUTO, BACKENDS
from dncbm.errors import InvalidInput


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CONFIG", *Settings.model_fields):
        monkeypatch.delenv(f"DNCBM_{name.upper()}", raising=False)
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(tmp_path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dncbm.toml"


def test_command_line_over_environment_over_file_over_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('port = 1000\nwaiting = 3\ndevice = "cpu"\nallowed_hosts = ["a.b", "c.d"]\n')
    monkeypatch.setenv("DNCBM_PORT", "2000")
    monkeypatch.setenv("DNCBM_WAITING", "4")
    loaded = load_settings(file, {"port": 3000})
    settings = loaded.settings
    assert (settings.port, settings.waiting, settings.device) == (3000, 4, "cpu")
    assert settings.max_images == 32
    assert settings.options().allowed_hosts == ("a.b", "c.d")
    assert [loaded.sources[name] for name in ("port", "waiting", "device", "max_images")] == [
        "command line", "DNCBM_WAITING", str(file), "default",
    ]  # fmt: skip


def test_the_file_of_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("max_images = 7")
    monkeypatch.setenv("DNCBM_CONFIG", str(file))
    assert load_settings().settings.max_images == 7


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("rate_limit", "60 per minute", "60/minute"),
        ("log_format", "xml", "'plain' or 'json'"),
        ("backend", "tpu", "onnxruntime"),
        ("max_batch", "0", "greater than or equal to 1"),
        ("drift_seconds", "0", "greater than 0"),
        ("worker", "perhaps", "boolean"),
        ("trusted_proxies", "10.0.0.0/8, proxy", "'proxy'"),
        ("cors_origins", "example.org", "https://example.org"),
        ("allowed_hosts", "a.b:80", "without port"),
        ("port", "70000", "less than or equal to 65535"),
    ],
)
def test_a_wrong_value_is_named_with_rule_and_source(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    variable = f"DNCBM_{name.upper()}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput) as caught:
        load_settings()
    message = str(caught.value)
    assert f"{variable}: " in message
    assert rule in message
    assert f"got {value!r} (from {variable})" in message


def test_all_wrong_values_are_named_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = 0\n")
    monkeypatch.setenv("DNCBM_WAITING", "x")
    with pytest.raises(InvalidInput, match=r"DNCBM_PORT.*dncbm.toml.*DNCBM_WAITING"):
        load_settings(file)


@pytest.mark.parametrize("name", ["database_url", "api_key"])
def test_secrets_are_not_in_messages(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value = "" if name == "api_key" else "mysql://u:s3cret@h/d"
    monkeypatch.setenv(f"DNCBM_{name.upper()}", value)
    with pytest.raises(InvalidInput) as caught:
        load_settings()
    assert f"DNCBM_{name.upper()}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_an_unknown_variable_is_a_warning_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DNCBM_RATE_LIMITS", "1/hour")
    monkeypatch.setenv("DNCBM_CACHE", "/tmp")
    (warning,) = load_settings().warnings
    assert "DNCBM_RATE_LIMITS" in warning
    assert "the nearest is DNCBM_RATE_LIMIT." in warning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", r"'prot' \(nearest: port\)"),
        ("port = ", "not TOML"),
        (None, "Cannot read the settings file"),
    ],
)
def test_a_wrong_file_is_explained(file: Path, text: str | None, message: str) -> None:
    if text is not None:
        file.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        load_settings(file)


def test_settings_are_shown_as_a_file_without_secrets(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNCBM_API_KEY", "s3cret-key")
    monkeypatch.setenv("DNCBM_DATABASE_URL", "postgresql://u:s3cret@h/d?password=s3cret")
    file.write_text("waiting = 3")
    text = describe(load_settings(file))
    assert "s3cret" not in text
    assert f"waiting = 3  # {file}" in text
    assert 'api_key = "********"  # DNCBM_API_KEY' in text
    assert 'database_url = "postgresql://u:***@h/d"' in text
    assert "# keys_file =  # default" in text
    assert tomllib.loads(text)["worker"] is True
    assert set(tomllib.loads(text)) <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("host", "extra", "starts"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("localhost", {}, True),
        ("0.0.0.0", {}, False),
        ("::", {}, False),
        ("service.example", {}, False),
        ("0.0.0.0", {"allow_open": True}, True),
        ("0.0.0.0", {"api_key": "k"}, True),
        ("0.0.0.0", {"keys_file": "k.toml"}, True),
    ],
)
def test_a_public_address_needs_keys(host: str, extra: dict[str, object], starts: bool) -> None:
    if starts:
        load_settings(given={"host": host} | extra)
        return
    with pytest.raises(InvalidInput, match=r"--allow-open"):
        load_settings(given={"host": host} | extra)


def test_state_and_database_lie_beside_the_models(tmp_path: Path) -> None:
    settings = load_settings().settings
    assert settings.state == tmp_path / ".dncbm"
    assert settings.database == f"sqlite:///{tmp_path.resolve()}/.dncbm/dncbm.sqlite"
    moved = load_settings(given={"state_dir": tmp_path / "s"}).settings
    assert moved.database == f"sqlite:///{tmp_path.resolve()}/s/dncbm.sqlite"
    server = load_settings(given={"database_url": "postgresql://h/d"}).settings
    assert server.database == "postgresql://h/d"


def test_backends_are_those_of_the_library() -> None:
    assert set(get_args(BackendName)) == {AUTO, *BACKENDS, *ALIASES}
