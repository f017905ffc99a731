"""The service on real, tiny artifacts, composed as in production."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from api.asgi import application
from dncbm.naming.dictionary import save_dictionary
from dncbm.naming.space import NamingSpace
from dncbm.probe.model import Probe
from dncbm.probe.store import save_cbm
from dncbm.probe.train import TrainedProbe
from dncbm.sae.activations import TopK
from dncbm.sae.model import SaeModel
from dncbm.sae.store import save_sae
from tests.api.conftest import client_for
from tests.api.fakes import CLASSES, NUM_CONCEPTS, make_dictionary, make_names, photo, png, save
from tests.api.test_predictions import account, answer, post, problem, unusual_images
from tests.unit.encoders.tiny import tiny_encoder


def write_model(root: Path, inputs: dict[str, str] | None = None) -> Path:
    encoder = tiny_encoder(root / "tower")
    model = SaeModel(encoder.embed_dim, NUM_CONCEPTS, activation=TopK(6))
    sae = save_sae(root / "sae", model, inputs={"encoder": encoder.fingerprint})
    tables = make_dictionary()
    thumbnails = root / "pictures"
    thumbnails.mkdir()
    (thumbnails / "4.jpg").write_bytes(save(Image.new("RGB", (32, 32), "navy"), "JPEG"))
    dictionary = save_dictionary(
        root / "dictionary",
        directions=model.dictionary.detach(),
        names=make_names(),
        space=NamingSpace(model.dictionary.detach(), torch.zeros(encoder.embed_dim)),
        statistics=pa.table(tables.statistics),
        examples=tables.examples,
        config={},
        inputs={"sae": sae.fingerprint},
        thumbnails=thumbnails,
    )
    weights = torch.randn(len(CLASSES), NUM_CONCEPTS)
    weights[:, [0, 6]] += 4.0  # both are named "red", and are kept among five
    sparse = weights * (weights.abs() >= weights.abs().topk(5, dim=1).values[:, -1:])
    bias = torch.randn(len(CLASSES))
    trained = TrainedProbe(
        probe=Probe(weights, bias, CLASSES),
        nec_probes={5: Probe(sparse, bias.clone(), CLASSES)},
        temperatures={"dense": 1.5, "nec5": 1.0},
        metrics={"accuracy": 0.5},
        history=[],
    )
    fingerprints = {
        "encoder": encoder.fingerprint,
        "sae": sae.fingerprint,
        "dictionary": dictionary.fingerprint,
    }
    save_cbm(
        root / "cbm",
        trained,
        config={"encoder": encoder.spec},
        inputs=fingerprints | (inputs or {}),
    )
    return root


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = write_model(tmp_path_factory.mktemp("served") / "Tiny Model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DNCBM_MODEL_DIR", str(root))
        patch.setenv("DNCBM_DEVICE", "cpu")
        with client_for(application()) as client:
            yield client


URL = "/v1/models/tiny-model/predict"


@pytest.mark.parametrize("query", ["", "&nec=5", "&top_contributions=0", "&top_contributions=99"])
def test_sums_are_exact(client: TestClient, query: str) -> None:
    photos = [photo(seed) for seed in range(6)]
    for prediction in answer(client, *photos, url=f"{URL}?top_classes=3{query}"):
        for scored in (prediction, *prediction["alternatives"]):
            assert account(scored) == scored["logit"]
            for part in scored["contributions"]:
                # rounded to a grid on which the sum is exact in any order
                product = part["code"] * part["weight"]
                assert part["contribution"] == pytest.approx(product, rel=1e-9, abs=1e-9)
                assert part["code"] >= 0


@pytest.mark.parametrize("query", ["", "&nec=5"])
def test_by_name_is_the_same_logit_in_fewer_parts(client: TestClient, query: str) -> None:
    photos = [photo(seed) for seed in range(6)]
    url = f"{URL}?top_contributions=99{query}&by="
    pairs = [answer(client, *photos, url=url + by) for by in ("concept", "name")]
    merges = []
    for single, named in zip(*pairs, strict=True):
        assert account(named) == named["logit"] == single["logit"]
        assert named["remainder"] == 0
        alone = {part["concept"]: part for part in single["contributions"]}
        assert all(part["concepts"] == [] for part in alone.values())
        merged = {0, 6} <= set(alone)
        merges.append(merged)
        assert len(named["contributions"]) == len(alone) - merged
        for part in named["contributions"]:
            members = [alone[c] for c in part["concepts"] or [part["concept"]]]
            assert part["contribution"] == sum(one["contribution"] for one in members)
            assert part["code"] == sum(one["code"] for one in members)
            assert len(members) == 1 + (merged and part["name"] == "red")
    assert any(merges)


def test_unusual_images(client: TestClient) -> None:
    for prediction in answer(client, *unusual_images().values(), url=URL):
        assert account(prediction) == prediction["logit"]


def test_concurrent_answers_equal_sequential_ones(client: TestClient) -> None:
    photos = [photo(seed) for seed in range(8)]
    sequential = [answer(client, image, url=URL) for image in photos]
    with ThreadPoolExecutor(4) as pool:
        concurrent = list(pool.map(lambda image: answer(client, image, url=URL), photos))
    for [alone], [together] in zip(sequential, concurrent, strict=True):
        # an encoder may round otherwise in the company of other photos; sums stay exact
        assert account(together) == together["logit"] == pytest.approx(alone["logit"], rel=1e-4)
        assert together["class"] == alone["class"]


def test_everything_else_is_there(client: TestClient) -> None:
    assert client.get("/readyz").json()["models"] == ["tiny-model"]
    model = client.get("/v1/models/tiny-model").json()
    assert model["classes"] == list(CLASSES)
    assert model["effective_concepts"] == [5]
    assert model["details"]["num_concepts"] == NUM_CONCEPTS
    weights = client.get("/v1/models/tiny-model/classes/Shoes?nec=5").json()
    assert weights["total"] == 5
    concept = client.get("/v1/dictionaries/tiny-model/concepts/11").json()
    assert (concept["max_code"], concept["status"]) == (None, "blocked")
    [example] = client.get("/v1/dictionaries/tiny-model/concepts/1/examples").json()["examples"]
    assert client.get(example["thumbnail"]).headers["content-type"] == "image/jpeg"


def test_search_by_text(client: TestClient) -> None:
    body = client.get("/v1/dictionaries/tiny-model/search?text=red shoes&limit=4").json()
    scores = [match["score"] for match in body["matches"]]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)


def test_bad_nec_is_named(client: TestClient) -> None:
    response = client.post(f"{URL}?nec=7", files={"image": png()})
    assert "nec=7 is not available in model 'tiny-model'. Available: 5" in problem(response, 422)


EXPLAIN = "/v1/models/tiny-model/explain"


def explanations(client: TestClient, query: str, count: int = 1) -> list[dict[str, Any]]:
    response = post(client, *map(photo, range(count)), url=EXPLAIN + query)
    assert response.status_code == 200, response.text
    return response.json()["explanations"]


def pixels(address: str) -> np.ndarray:
    kind, _, text = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_maps_of_the_decision_where_nothing_is_asked_for(client: TestClient) -> None:
    found = explanations(client, "?top=2", count=2)
    predictions = answer(client, photo(0), photo(1), url=f"{URL}?top_contributions=2")
    for explanation, prediction in zip(found, predictions, strict=True):
        assert pixels(explanation["seen"]).shape == (16, 16, 3)
        best, *concepts = explanation["attributions"]
        assert (best["kind"], best["name"]) == ("class", prediction["class"])
        assert best["value"] == pytest.approx(prediction["logit"], rel=1e-5)
        listed = prediction["contributions"]
        assert [item["index"] for item in concepts] == [part["concept"] for part in listed]
        for item, part in zip(concepts, listed, strict=True):
            assert item["value"] == pytest.approx(part["code"], rel=1e-5)
        for item in explanation["attributions"]:
            assert pixels(item["heat"]).shape == (16, 16, 4)
            assert not item["exact"]
            assert item["bias"] is item["position"] is item["picture"] is item["map"] is None


def test_maps_of_what_is_asked_for(client: TestClient) -> None:
    query = "?class=Shoes&class=0&concept=red&text=red%20shoes&arrays=true&nec=5"
    [found] = explanations(client, query)
    names = [(item["kind"], item["name"], item["index"]) for item in found["attributions"]]
    assert names == [
        ("class", "Shoes", 1),
        ("class", "Dress", 0),
        ("concept", "red", 0),
        ("concept", "red", 6),
        ("text", "red shoes", None),
    ]
    assert np.array(found["attributions"][4]["map"]).shape == (16, 16)


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("?class=Shoe", 404, "Unknown class 'Shoe'. Nearest known names: Shoes"),
        ("?concept=" + "9" * 5000, 404, "Unknown concept '999"),
        ("?concept=999", 422, "Concept 999 does not exist; there are 0 to 11"),
        ("?" + "&".join(["text=a"] * 33), 422, "asks for 33 maps; one request may ask for 32"),
        ("?" + "&".join(["text=a"] * 31) + "&concept=red", 422, "asks for 33 maps"),
        ("?nec=7", 422, "nec=7 is not available"),
        ("?clas=1", 422, "Unknown query parameter 'clas'"),
    ],
)
def test_bad_targets_are_named(client: TestClient, query: str, status: int, message: str) -> None:
    assert message in problem(post(client, photo(1), url=EXPLAIN + query), status)
