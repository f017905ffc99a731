"""Entity tags, 304, caching and compression."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from api.main import create_app
from api.registry import Registry, serve_model
from tests.api.conftest import OPTIONS, build, client_for
from tests.api.fakes import FakePredictor, png
from tests.api.test_predictions import post

TAGGED = [
    "/v1/dictionaries/clothing",
    "/v1/dictionaries/clothing/concepts",
    "/v1/dictionaries/clothing/concepts?sort=density&limit=3",
    "/v1/dictionaries/clothing/concepts/3",
    "/v1/dictionaries/clothing/concepts/0/examples",
    "/v1/dictionaries/clothing/map",
    "/v1/dictionaries/clothing/thumbnails/4.jpg",
    "/v1/models/clothing/classes",
    "/v1/models/clothing/classes/Shoes",
    "/v1/models/clothing/evaluation",
]


def get(client: TestClient, path: str, tag: str | None = None, **headers: str) -> Any:
    return client.get(path, headers=headers | ({} if tag is None else {"If-None-Match": tag}))


@pytest.mark.parametrize("path", TAGGED)
def test_who_has_the_answer_is_not_sent_it_again(client: TestClient, path: str) -> None:
    first = get(client, path)
    tag = first.headers["etag"]
    assert tag.startswith('"')  # strong
    assert first.headers["cache-control"].startswith("private")
    again = get(client, path, tag)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    assert again.headers["x-content-type-options"] == "nosniff"
    for other in ('"other"', f'W/"x", {tag[:-2]}"'):
        assert get(client, path, other).status_code == 200
    for same in (f'"x", {tag}', f"W/{tag}"):
        assert get(client, path, same).status_code == 304


def test_tags_differ_by_address_and_coding(client: TestClient) -> None:
    tags = {get(client, path).headers["etag"] for path in TAGGED}
    assert len(tags) == len(TAGGED)
    plain = get(client, TAGGED[1], **{"Accept-Encoding": "identity"}).headers["etag"]
    assert plain not in tags


def served(path: Path, predictor: FakePredictor) -> TestClient:
    return client_for(build(path, predictor))


@pytest.mark.parametrize("path", TAGGED)
def test_the_same_model_has_the_same_tag_anywhere(model_dir: Path, path: str) -> None:
    first, second = (get(served(model_dir, FakePredictor()), path) for _ in range(2))
    assert first.headers["etag"] == second.headers["etag"]


def edits() -> dict[str, FakePredictor]:
    renamed, weighed, sparse = FakePredictor(), FakePredictor(), FakePredictor()
    name = renamed.dictionary.names[3]
    renamed.dictionary.names[3] = type(name)(
        **{field: getattr(name, field) for field in name.__slots__} | {"name": "shoelace"}
    )
    weighed.cbm.probe.weights = weighed.cbm.probe.weights + torch.eye(3, 12)
    sparse.cbm.nec_probes[5].bias = sparse.cbm.nec_probes[5].bias + 1
    return {"renamed": renamed, "weighed": weighed, "sparse": sparse}


@pytest.mark.parametrize("kind", edits())
def test_an_edit_changes_the_tag(model_dir: Path, kind: str) -> None:
    before = get(served(model_dir, FakePredictor()), TAGGED[1]).headers["etag"]
    after = get(served(model_dir, edits()[kind]), TAGGED[1], before)
    assert after.status_code == 200
    assert after.headers["etag"] != before


def test_an_exchanged_predictor_changes_the_tag_at_once(model_dir: Path) -> None:
    registry = Registry([serve_model("clothing", model_dir, FakePredictor())])
    client = client_for(create_app(registry, OPTIONS))
    before = get(client, TAGGED[1]).headers["etag"]
    registry._models = {"clothing": serve_model("clothing", model_dir, edits()["renamed"])}
    after = get(client, TAGGED[1], before)
    assert after.status_code == 200
    assert after.json()["concepts"][3]["name"] == "shoelace"


def test_failures_have_no_tag(client: TestClient) -> None:
    for path in ("/v1/dictionaries/clothing/concepts/99", "/v1/models/unknown/classes"):
        response = get(client, path, "*")
        assert (response.status_code, "etag" in response.headers) == (404, False)


def test_large_json_is_compressed(client: TestClient) -> None:
    url = "/v1/dictionaries/clothing/concepts"
    packed = get(client, url)
    assert packed.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["vary"]
    plain = get(client, url, **{"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == packed.json()
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2


def test_small_json_pictures_and_lines_are_not(client: TestClient, model_dir: Path) -> None:
    assert "content-encoding" not in get(client, "/v1/dictionaries/clothing").headers
    noise = png(size=(400, 400)) + bytes(4000)
    (model_dir / "dictionary" / "thumbnails" / "4.jpg").write_bytes(noise)
    picture = get(client, "/v1/dictionaries/clothing/thumbnails/4.jpg")
    assert (picture.content, "content-encoding" in picture.headers) == (noise, False)
    url = "/v1/models/clothing/predict?top_classes=3&top_contributions=12"
    assert post(client, png(), url=url).headers["content-encoding"] == "gzip"
    files = {"image": ("a.png", png())}
    lines = client.post(url, files=files, headers={"Accept": "application/x-ndjson"})
    assert len(lines.content) > 1000
    assert "content-encoding" not in lines.headers
