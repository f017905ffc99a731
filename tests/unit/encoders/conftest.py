"""One tiny encoder for the whole room."""

import pytest

from dncbm.encoders.clip import Encoder
from tests.unit.encoders.tiny import tiny_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))
