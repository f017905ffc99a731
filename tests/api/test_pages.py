import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from api.registry import Registry, serve_model
from api.routes import pages
from tests.api.conftest import client_for
from tests.api.fakes import HOSTILE, FakePredictor, make_model_directory
from tests.api.test_predictions import problem

WEB = Path(pages.__file__).parents[1] / "web"


def test_page_works_without_scripts(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    plain = page.text.split("<noscript>")[1].split("</noscript>")[0]
    assert 'action="/v1/models/clothing/predict"' in plain
    assert 'name="image"' in plain
    assert 'enctype="multipart/form-data"' in plain
    for link in ("/report/clothing", "/v1/models/clothing"):
        assert f'href="{link}"' in plain
        assert client.get(link).status_code == 200
    for link in ("/docs", "/report/"):
        assert f'href="{link}"' in page.text


def test_page_is_told_what_the_service_offers(client: TestClient) -> None:
    routes = client.get("/").text.split('data-routes="')[1].split('"')[0].split(";")
    assert "POST /v1/models/{}/predict" in routes
    assert "GET /v1/dictionaries/{}/concepts/{}/examples" in routes
    assert not [one for one in routes if "/v1/" not in one]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert "script-src 'self'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|<link[^>]+href)="([^"]+)"', page.text)
    assert loaded
    for address in loaded:
        assert address.startswith("/web/")
        assert client.get(address).status_code == 200
    assert "style=" not in page.text
    assert "<style" not in page.text


SCRIPTS = sorted(path.name for path in (WEB / "js").glob("*.js"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_never_build_markup(client: TestClient, name: str) -> None:
    script = client.get(f"/web/js/{name}")
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["cache-control"] == "no-cache"
    ways = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(")
    for way in (*ways, 'setAttribute("style"'):
        assert way not in script.text
    assert script.text.count("\n") < 400
    for imported in re.findall(r'^import .* from "(.*)";$', script.text, re.MULTILINE):
        assert imported.removeprefix("./") in SCRIPTS


def test_scripts_are_readable_by_an_engine() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    for name in SCRIPTS:
        check = [node, "--input-type=module", "--check"]
        done = subprocess.run(
            check, input=(WEB / "js" / name).read_bytes(), capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()


def test_only_listed_files_are_served(client: TestClient) -> None:
    for name in ("index.html", "js", "js/none.js", "..%2Fsettings.py", "js/../../settings.py"):
        assert client.get(f"/web/{name}").status_code == 404


def test_hostile_class_names_are_escaped(model_dir: Path) -> None:
    predictor = FakePredictor()
    predictor.classes = (HOSTILE, "b", "c")
    client = client_for(create_app(Registry([serve_model("m", model_dir, predictor)])))
    page = client.get("/").text
    assert HOSTILE not in page
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;" in page


def test_docs_show_every_operation(client: TestClient) -> None:
    page = client.get("/docs").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in page
    assert "curl -F image=@photo.jpg" in page


def test_report_is_served_closed_in(client: TestClient) -> None:
    for path in ("/report", "/report/", "/report/clothing"):
        response = client.get(path)
        assert "<title>report</title>" in response.text
        assert response.headers["content-security-policy"].startswith("default-src 'none'")


def test_no_report(tmp_path: Path) -> None:
    path = make_model_directory(tmp_path / "bare", report=False)
    client = client_for(create_app(Registry([serve_model("bare", path, FakePredictor())])))
    assert "dncbm report DIR" in problem(client.get("/report/"), 404)
    assert "'bare' has no report" in problem(client.get("/report/bare"), 404)
    assert "/report/bare" not in client.get("/").text


def test_report_of_an_unknown_model(client: TestClient) -> None:
    assert "Unknown model 'x'" in problem(client.get("/report/x"), 404)
