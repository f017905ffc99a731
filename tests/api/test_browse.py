"""Evaluation, map, histograms and similar images, on real tiny artifacts."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from api.browse import ModelBrowser, Once
from api.errors import Overloaded
from api.limits import InferenceLimiter
from api.main import create_app
from api.registry import Registry, ServedModel, serve_model
from api.settings import ServiceOptions
from dncbm.predictor import Predictor
from tests.api.conftest import OPTIONS, client_for
from tests.api.fakes import CLASSES, photo
from tests.api.real import IMAGES, LABELS, SPLITS, load_predictor, write_browsable
from tests.api.test_predictions import post, problem

DICTIONARY = "/v1/dictionaries/tiny"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_browsable(tmp_path_factory.mktemp("browsed") / "tiny")


@pytest.fixture(scope="module")
def predictor(root: Path) -> Predictor:
    return load_predictor(root)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "below"


@pytest.fixture(scope="module")
def client(root: Path, predictor: Predictor, state: Path) -> Iterator[TestClient]:
    options = replace(OPTIONS, state_dir=state)
    with client_for(create_app(Registry([serve_model("tiny", root, predictor)]), options)) as found:
        yield found


@pytest.fixture(scope="module")
def codes(root: Path, predictor: Predictor) -> np.ndarray:
    rows = np.load(root / "embeddings" / "shards" / "000000.npy")
    return predictor.encode(torch.from_numpy(rows)).numpy()


def test_evaluation_is_measured_on_the_test_images(
    client: TestClient, predictor: Predictor, codes: np.ndarray
) -> None:
    body = client.get("/v1/models/tiny/evaluation").json()
    rows = [index for index in range(IMAGES) if SPLITS[index] == "test"]
    truth = np.array([CLASSES.index(LABELS[row]) for row in rows])
    for nec, said in ((None, body["accuracy"]), (5, body["nec"][0]["accuracy"])):
        logits = predictor.cbm.probe_for(nec).logits(torch.from_numpy(codes[rows]))
        assert said == pytest.approx((logits.argmax(1).numpy() == truth).mean())
    assert (body["model"], body["split"], body["images"]) == ("tiny", "test", len(rows))
    assert body["nec"][0]["effective_concepts"] == 5
    assert body["confusion"]["classes"] == list(CLASSES)
    assert np.sum(body["confusion"]["counts"]) == len(rows)
    assert body["calibration"]["temperature"] == 1.5
    assert sum(one["images"] for one in body["calibration"]["bins"]) == len(rows)
    assert (body["random_control"], body["reason"]) == (None, None)
    mistakes = sum(item["images"] for item in body["confused_by"])
    assert mistakes == round(len(rows) * (1 - body["accuracy"])) > 0
    first = body["confused_by"][0]
    assert first["true"] != first["predicted"]
    assert first["concepts"][0]["contribution"] > 0


def test_evaluation_without_embeddings_is_what_was_written_down(
    fake_client: TestClient,
) -> None:
    body = fake_client.get("/v1/models/clothing/evaluation").json()
    assert (body["split"], body["accuracy"], body["images"]) == ("test", 0.5, None)
    assert body["nec"] == [{"effective_concepts": 5, "accuracy": 0.25}]
    assert (body["confusion"], body["calibration"], body["confused_by"]) == (None, None, [])
    assert "no embeddings" in body["reason"]


@pytest.fixture
def fake_client(model_dir: Path) -> TestClient:
    from tests.api.conftest import build
    from tests.api.fakes import FakePredictor

    return client_for(build(model_dir, FakePredictor()))


def test_embeddings_of_another_model_are_not_used(
    tmp_path: Path, root: Path, predictor: Predictor
) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "embeddings").mkdir(parents=True)
    for file in (root / "embeddings").rglob("*"):
        target = foreign / "embeddings" / file.relative_to(root / "embeddings")
        if file.is_dir():
            target.mkdir()
        else:
            target.write_bytes(file.read_bytes())
    other = replace(predictor.cbm, manifest=replace(predictor.cbm.manifest, inputs={}))
    changed = Predictor(
        encoder=predictor.encoder, sae=predictor.sae, dictionary=predictor.dictionary, cbm=other
    )
    app = create_app(Registry([serve_model("tiny", foreign, changed)]), OPTIONS)
    found = client_for(app)
    assert "other embeddings" in found.get("/v1/models/tiny/evaluation").json()["reason"]
    assert "other embeddings" in problem(post(found, photo(1), url=f"{DICTIONARY}/similar"), 404)


def test_concept_with_histogram_and_classes(
    client: TestClient, predictor: Predictor, codes: np.ndarray
) -> None:
    train = [index for index in range(IMAGES) if SPLITS[index] == "train"]
    for concept in range(12):
        body = client.get(f"{DICTIONARY}/concepts/{concept}").json()
        histogram, column = body["histogram"], codes[train, concept]
        assert sum(histogram["counts"]) == (column > 0).sum()
        assert histogram["inactive"] == (column == 0).sum()
        assert histogram["edges"][-1] == pytest.approx(column.max())
        assert (histogram["images"], histogram["total"]) == (len(train), len(train))
        weights = predictor.cbm.probe.weights[:, concept]
        assert [item["weight"] for item in body["classes"]] == sorted(weights.tolist())[::-1]
        strongest = CLASSES[int(weights.argmax())]
        assert body["classes"][0]["class"] == strongest


def test_classes_of_a_concept_in_a_sparse_probe(client: TestClient, predictor: Predictor) -> None:
    body = client.get(f"{DICTIONARY}/concepts/3?effective_concepts=5").json()
    assert len(body["classes"]) == int((predictor.cbm.nec_probes[5].weights[:, 3] != 0).sum())


def test_concepts_by_weight_of_a_class(client: TestClient, predictor: Predictor) -> None:
    url = f"{DICTIONARY}/concepts?limit=500&sort=weight"
    for address, row in ((f"{url}&class=Shoes", 1), (f"{url}&class=1&nec=5", 1)):
        probe = predictor.cbm.probe_for(5 if "nec" in address else None)
        body = client.get(address).json()
        shown = [item["weight"] for item in body["concepts"]]
        assert shown == sorted(probe.weights[row].tolist(), reverse=True)
        for item in body["concepts"]:
            assert item["weight"] == float(probe.weights[row, item["concept"]])
    rising = client.get(f"{url}&class=Shoes&order=asc").json()["concepts"]
    assert rising[0]["weight"] == float(predictor.cbm.probe.weights[1].min())


def test_sorting_by_weight_needs_a_known_class(client: TestClient) -> None:
    url = f"{DICTIONARY}/concepts?sort=weight"
    assert "needs a class" in problem(client.get(url), 422)
    assert "Shoes" in problem(client.get(f"{url}&class=Shoos"), 404)


def test_map_is_computed_once_and_kept(client: TestClient, state: Path) -> None:
    body = client.get(f"{DICTIONARY}/map").json()
    assert (body["method"], body["is_final"]) == ("pca+tsne", True)
    assert body["concepts"] == list(range(12))
    assert body["names"][3] == "lace"
    assert body["density"][0] == 0.5
    assert max(map(abs, body["x"] + body["y"])) == pytest.approx(1)
    [file] = (state / "maps").iterdir()
    assert len(json.loads(file.read_text())["places"]) == 12


def served(root: Path, predictor: Predictor) -> ServedModel:
    return serve_model("tiny", root, predictor)


def browser(root: Path, predictor: Predictor, state: Path | None) -> ModelBrowser:
    options = ServiceOptions(state_dir=state)
    return ModelBrowser(served(root, predictor), options, InferenceLimiter(1, 1, 1))


def test_a_kept_map_is_read_again(root: Path, predictor: Predictor, tmp_path: Path) -> None:
    first = browser(root, predictor, tmp_path).map().now[0]
    [file] = (tmp_path / "maps").iterdir()
    moved = json.loads(file.read_text())
    moved["places"][0] = [0.25, -0.25]
    file.write_text(json.dumps(moved))
    second = browser(root, predictor, tmp_path).map().now[0]
    assert second.places[0].tolist() == [0.25, -0.25]
    np.testing.assert_array_equal(second.places[1:], first.places[1:])


@pytest.mark.parametrize(
    "text", ["not json", "[1]", '{"method": "pca", "places": [[1]]}', '{"places": [["a", "b"]]}']
)
def test_a_damaged_map_is_made_again(
    root: Path, predictor: Predictor, tmp_path: Path, text: str
) -> None:
    first = browser(root, predictor, tmp_path).map().now[0]
    [file] = (tmp_path / "maps").iterdir()
    file.write_text(text)
    again = browser(root, predictor, tmp_path).map().now[0]
    np.testing.assert_array_equal(again.places, first.places)


def test_a_state_that_cannot_be_written_is_no_error(
    root: Path, predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for state in (tmp_path / "file", None):
        assert browser(root, predictor, state).map().now[0].places.shape == (12, 2)


def test_concepts_in_a_photo(client: TestClient, codes: np.ndarray) -> None:
    body = post(client, photo(2), url=f"{DICTIONARY}/search?limit=3").json()
    assert body["image"] == "photo0.png"
    shown = {item["concept"]: item["code"] for item in body["matches"]}
    order = [c for c in np.argsort(-codes[2], kind="stable") if codes[2][c] > 0 and c != 11][:3]
    assert list(shown) == order  # 11 is blocked
    assert list(shown.values()) == pytest.approx(codes[2][order].tolist(), rel=1e-4)


def test_similar_images_begin_with_the_photo_itself(client: TestClient) -> None:
    body = post(client, photo(4), url=f"{DICTIONARY}/similar?limit=4").json()
    assert (body["images"], body["total"]) == (18, 18)
    first = body["matches"][0]
    assert (first["row"], first["item_id"]) == (4, "photos/4.png")
    assert first["similarity"] == pytest.approx(1, abs=1e-4)
    assert client.get(first["thumbnail"]).status_code == 200
    assert 1 <= len(first["shared"]) <= 5
    values = [item["similarity"] for item in body["matches"]]
    assert values == sorted(values, reverse=True)
    assert body["matches"][1]["thumbnail"] is None


@pytest.mark.parametrize("route", ["search", "similar"])
def test_one_photo_at_a_time(client: TestClient, route: str) -> None:
    url = f"{DICTIONARY}/{route}"
    assert "takes one" in problem(post(client, photo(1), photo(2), url=url), 422)
    assert "cannot be used" in problem(post(client, b"no image", url=url), 422)


def test_similar_without_embeddings(fake_client: TestClient) -> None:
    url = "/v1/dictionaries/clothing/similar"
    assert "no embeddings" in problem(post(fake_client, photo(1), url=url), 404)
    assert fake_client.get("/v1/dictionaries/clothing/concepts/1").json()["histogram"] is None


def test_many_ask_at_once_and_one_computes() -> None:
    calls: list[int] = []
    gate = threading.Event()

    def compute() -> int:
        calls.append(1)
        assert gate.wait(20)
        return 7

    once = Once(compute, ServiceOptions(waiting=3, wait_seconds=20))
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(once.get) for _ in range(4)]
        while once._turn.admitted < 4:
            time.sleep(0.001)
        with pytest.raises(Overloaded):
            once.get()
        gate.set()
        assert [future.result() for future in futures] == [7] * 4
    assert len(calls) == 1


def test_a_failed_computation_is_tried_again() -> None:
    answers: list[Any] = [RuntimeError("disk"), 5]

    def compute() -> int:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return int(found)

    once = Once(compute, ServiceOptions())
    with pytest.raises(RuntimeError):
        once.get()
    assert once.get() == 5
