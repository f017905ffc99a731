"""The client against a live service, on the fakes and on real tiny artifacts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from api.main import create_app
from api.registry import Registry, serve_model
from dncbm.client import Client
from dncbm.errors import InvalidInput, UnknownName
from tests.api.conftest import OPTIONS, build
from tests.api.fakes import CLASSES, FakePredictor, make_model_directory, photo
from tests.api.live import serving
from tests.api.real import load_predictor, write_browsable

KEY = "clé-secrète"


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = make_model_directory(tmp_path_factory.mktemp("live") / "clothing")
    with serving(build(path, FakePredictor(), replace(OPTIONS, api_key=KEY))) as url:
        yield url


@pytest.fixture(scope="module")
def client(fake: str) -> Iterator[Client]:
    with Client(fake, api_key=KEY) as client:
        yield client


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root = write_browsable(tmp_path_factory.mktemp("browsed") / "tiny")
    app = create_app(Registry([serve_model("tiny", root, load_predictor(root))]), OPTIONS)
    with serving(app) as url, Client(url) as client:
        yield client


def test_key(fake: str) -> None:
    with Client(fake) as client, pytest.raises(InvalidInput, match="X-API-Key"):
        client.models()


def test_models_and_classes(client: Client) -> None:
    [model] = client.models()
    assert (model.id, model.classes, model.effective_concepts) == ("clothing", CLASSES, (5,))
    assert client.model("clothing").details["encoder"] == "mini"
    assert [item.class_name for item in client.classes("clothing")] == list(CLASSES)
    dense = client.weights("clothing", "T-Shirt/Top & Co")
    few = client.weights("clothing", "T-Shirt/Top & Co", effective_concepts=5)
    assert (len(dense), len(few)) == (10, 5)
    with pytest.raises(UnknownName, match="Nearest known names: clothing"):
        client.model("clothng")


def test_predict(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo(1))
    first, second = client.predict(
        "clothing", [tmp_path / "a.png", photo(2)], top_classes=3, top_contributions=4
    )
    assert (first.image, second.image) == ("a.png", "image1")
    for item in (first, *first.alternatives):
        total = item.bias + sum(part.contribution for part in item.contributions)
        assert len(item.contributions) == 4
        assert total + item.remainder == pytest.approx(item.logit)
    [sparse] = client.predict("clothing", [photo(1)], effective_concepts=5)
    assert sparse.logit != first.logit
    with pytest.raises(InvalidInput, match="between 1 and 4"):
        client.predict("clothing", [photo(1)] * 5)
    with pytest.raises(InvalidInput, match="Available: 5"):
        client.predict("clothing", [photo(1)], effective_concepts=6)


def test_browse(client: Client) -> None:
    [dictionary] = client.dictionaries()
    assert (dictionary.id, dictionary.named) == ("clothing", 9)
    found = list(client.concepts("clothing", sort="weight", class_name="Shoes"))
    weights = [item.weight for item in found]
    assert weights == sorted(weights, reverse=True)
    assert [item.concept for item in client.concepts("clothing", name="red")] == [0, 6]
    detail = client.concept("clothing", 3)
    assert (detail.name, detail.alternatives[0].name, detail.histogram) == ("lace", "other", None)
    assert [item.row for item in client.examples("clothing", 0)] == [9, 2, 7]
    assert client.search("clothing", "lace", limit=2)[0].concept == 3
    assert client.search_image("clothing", photo(1), limit=3)[0].code > 0
    assert len(client.concept_map("clothing").x) == 12
    with pytest.raises(UnknownName, match="no embeddings"):
        client.similar("clothing", photo(1))
    assert client.evaluation("clothing").accuracy == 0.5


def test_what_needs_a_true_model(real: Client) -> None:
    evaluation = real.evaluation("tiny")
    assert evaluation.confusion is not None
    assert sum(map(sum, evaluation.confusion.counts)) == evaluation.images
    assert real.similar("tiny", photo(4))[0].row == 4
    histogram = real.concept("tiny", 2).histogram
    assert histogram is not None
    assert sum(histogram.counts) + histogram.inactive == histogram.images == 18
    [explained] = real.explain("tiny", [photo(1)], classes=["Shoes"], concepts=[3], arrays=True)
    assert [item.name for item in explained.attributions] == ["Shoes", "lace"]
    assert explained.attributions[0].map is not None
    assert explained.seen.startswith("data:image/png;base64,")
