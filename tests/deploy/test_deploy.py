"""What is in `deploy/`, checked without a Docker engine: shape, pins, users, names of metrics."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.lifecycle import Lifecycle
from api.limits import InferenceLimiter, UploadLimiter
from api.metrics import Metrics
from api.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
ONE_SHOT = {"s3-owner", "s3-bucket"}


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.fixture(scope="module")
def compose() -> Any:
    return read("docker-compose.yml")


def test_the_services_and_profiles(compose: Any) -> None:
    profiles = {name: service.get("profiles", []) for name, service in compose["services"].items()}
    assert {name for name, found in profiles.items() if not found} == {
        "api", "worker", "postgres", "s3", *ONE_SHOT,
    }  # fmt: skip
    assert {name for name, found in profiles.items() if found == ["ray"]} == {
        "ray-head", "ray-worker",
    }  # fmt: skip
    assert {name for name, found in profiles.items() if found == ["monitoring"]} == {
        "prometheus", "grafana",
    }  # fmt: skip


def composed(*words: str, env_file: Path) -> subprocess.CompletedProcess[str]:
    """What Compose itself makes of the file; it needs no engine for that."""
    file = ["--env-file", str(env_file), "--file", str(DEPLOY / "docker-compose.yml")]
    return subprocess.run(
        ["docker", "compose", *file, *words], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def has_compose() -> None:
    version = ["docker", "compose", "version"]
    if not shutil.which("docker") or subprocess.run(version, capture_output=True).returncode:
        pytest.skip("docker compose is not installed")


@pytest.mark.usefixtures("has_compose")
@pytest.mark.parametrize("profiles", [[], ["ray"], ["monitoring"], ["ray", "monitoring"]])
def test_compose_takes_the_file(compose: Any, profiles: list[str]) -> None:
    words = [word for name in profiles for word in ("--profile", name)]
    found = composed(*words, "config", env_file=DEPLOY / ".env.example")
    assert found.returncode == 0, found.stderr
    wanted = {
        name for name, service in compose["services"].items()
        if not service.get("profiles") or set(service["profiles"]) & set(profiles)
    }  # fmt: skip
    assert set(yaml.safe_load(found.stdout)["services"]) == wanted


@pytest.mark.usefixtures("has_compose")
def test_compose_asks_for_secrets_that_are_not_set(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    found = composed("config", env_file=tmp_path / "empty")
    assert found.returncode != 0
    assert "set it in .env" in found.stderr


def test_each_service_is_pinned_checked_and_not_root(compose: Any) -> None:
    for name, service in compose["services"].items():
        image = service["image"]
        assert re.search(r":[^/]*[0-9]|:\$\{DNCBM_TAG", image), f"{name}: {image} is not pinned"
        assert ":latest" not in image
        assert service.get("cap_drop") == ["ALL"] or service.get("security_opt"), name
        if name not in ONE_SHOT:
            assert service["healthcheck"]["test"][0] == "CMD", name
        if name != "s3-owner":
            assert service["user"].partition(":")[0] not in ("", "0", "root"), name


def test_volumes_configs_and_dependencies_exist(compose: Any) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.rpartition(":/")[0] if volume.count(":/") == 1 else volume.split(":")[0]
            if re.fullmatch(r"[a-z]+", source):
                assert source in compose["volumes"], name
            elif source.startswith("./"):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
        for config in service.get("configs", []):
            assert config["source"] in compose["configs"]
        for other in service.get("depends_on", {}):
            assert other in compose["services"], name


def test_ports_are_published_to_this_machine_alone(compose: Any) -> None:
    for service in compose["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_variables_are_those_of_the_example_and_of_the_settings(compose: Any) -> None:
    example = dict(
        line.split("=", 1)
        for line in (DEPLOY / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    text = (DEPLOY / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", text)) - {"DNCBM_TAG"}
    assert used == set(example)
    required = set(re.findall(r"\$\{([A-Z0-9_]+):\?", text))
    assert {"DNCBM_API_KEY", "POSTGRES_PASSWORD", "S3_SECRET_KEY"} <= required
    names = {f"DNCBM_{name.upper()}" for name in Settings.model_fields}
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    set_here = set(re.findall(r"\b(DNCBM_[A-Z_]+)=", dockerfile))
    for service in compose["services"].values():
        set_here |= {name for name in service.get("environment", {}) if name.startswith("DNCBM_")}
    assert set_here <= names
    assert {"DNCBM_MODEL_DIR", "DNCBM_STATE_DIR", "DNCBM_DATABASE_URL"} <= set_here


def test_the_image_is_not_root_and_names_no_package_index() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=\d+\.\d+\.\d+-slim-\w+$", text, re.M)
    assert re.search(r"^USER 10001:10001$", text, re.M)
    assert "HEALTHCHECK" in text
    assert len(re.findall(r"^FROM ", text, re.M)) == 2
    for file in (*DEPLOY.glob("*"), *DEPLOY.rglob("*.yml")):
        if file.is_file():
            assert not re.search(r"pypi\.|pytorch\.org|/simple\b", file.read_text()), file
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M))
    names = {name for line in copied for name in line.split()}
    assert {f"!{name}" for name in names} <= set(ignored)


def queries() -> list[str]:
    rules = [rule["expr"] for group in read("alerts.yml")["groups"] for rule in group["rules"]]
    board = json.loads((DEPLOY / "grafana/dashboards/dncbm.json").read_text())
    return rules + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_alerts_and_dashboard_ask_for_metrics_that_exist() -> None:
    metrics = Metrics(InferenceLimiter(1, 0, 0), UploadLimiter(1, 1), Lifecycle())
    text = metrics.render().decode()
    known = set(re.findall(r"^# TYPE (\w+)", text, re.M)) | {"up"}
    asked = set()
    for query in queries():
        asked |= set(re.findall(r"\b((?:dncbm|process)_\w+)", query))
    assert len(asked) > 10
    for name in asked:
        assert re.sub(r"_(bucket|sum|count)$", "", name) in known or name in known, name


def test_alerts_say_what_to_do() -> None:
    for group in read("alerts.yml")["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["description"]


def test_prometheus_and_grafana_find_their_files(compose: Any) -> None:
    prometheus = read("prometheus.yml")
    assert prometheus["rule_files"] == ["alerts.yml"]
    (job,) = prometheus["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target.partition(":")[0] in compose["services"]
    key = compose["services"]["prometheus"]["configs"][0]["target"]
    assert job["basic_auth"]["password_file"] == key
    (source,) = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    board = json.loads((DEPLOY / "grafana/dashboards/dncbm.json").read_text())
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    (provider,) = read("grafana/provisioning/dashboards/dncbm.yml")["providers"]
    mounted = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
