import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from api.registry import Registry, serve_model
from tests.api.conftest import client_for
from tests.api.fakes import HOSTILE, FakePredictor, make_model_directory
from tests.api.test_predictions import problem


def test_page_has_form_models_and_links(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert 'action="/v1/models/clothing/predict"' in page.text
    assert 'name="image"' in page.text
    assert 'enctype="multipart/form-data"' in page.text
    for link in ("/docs", "/report/", "/report/clothing", "/v1/models/clothing"):
        assert f'href="{link}"' in page.text
        assert client.get(link).status_code == 200


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


def test_script_never_builds_markup(client: TestClient) -> None:
    script = client.get("/web/page.js")
    assert script.headers["content-type"].startswith("text/javascript")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in script.text


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
