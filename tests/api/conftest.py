"""A served model in a temporary directory, and a client for it."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from api.main import create_app
from api.registry import Registry, serve_model
from api.settings import ServiceOptions
from tests.api.fakes import FakePredictor, make_model_directory

with warnings.catch_warnings():
    # Starlette asks for another client library when its test client is imported.
    warnings.filterwarnings("ignore", message=".*httpx.*")
    from fastapi.testclient import TestClient

OPTIONS = ServiceOptions(
    max_upload_bytes=200_000, max_pixels=250_000, max_images=4, waiting=2, wait_seconds=20
)


def build(path: Path, predictor: FakePredictor, options: ServiceOptions = OPTIONS) -> FastAPI:
    return create_app(Registry([serve_model("clothing", path, predictor)]), options)


def client_for(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "clothing")


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def client(model_dir: Path, predictor: FakePredictor) -> Iterator[TestClient]:
    with client_for(build(model_dir, predictor)) as client:
        yield client
