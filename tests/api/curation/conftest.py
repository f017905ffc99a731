"""A service with a tiny model that was really fitted, its edits and its audit log."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.curation import Curation
from api.main import create_app
from api.registry import Registry, serve_model
from dncbm.curation.store import CurationStore
from dncbm.database import Database
from dncbm.encoders.clip import Encoder
from dncbm.predictor import Predictor
from tests.api.conftest import OPTIONS, client_for
from tests.unit.curation.conftest import write_model
from tests.unit.encoders.tiny import tiny_encoder


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    return write_model(tmp_path_factory.mktemp("served") / "insects", encoder=encoder)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database.of_file(tmp_path / "a.sqlite")
    yield made
    made.close()


class Process:
    """One process of a service, as `api.asgi` puts it together."""

    def __init__(self, root: Path, encoder: Encoder, database: Database, state: Path) -> None:
        predictor = Predictor.load(root, encoder=encoder)
        self.registry = Registry([serve_model("insects", root, predictor)])
        self.clock = Clock()
        store = CurationStore(database)
        self.curation = Curation(store, self.registry, state, clock=self.clock)
        app = create_app(self.registry, OPTIONS, curation=self.curation)
        self.client = client_for(app)


@pytest.fixture
def process(root: Path, encoder: Encoder, database: Database, tmp_path: Path) -> Process:
    return Process(root, encoder, database, tmp_path)


@pytest.fixture
def client(process: Process) -> TestClient:
    return process.client
