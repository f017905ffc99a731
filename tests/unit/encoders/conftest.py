"""One tiny encoder for the whole room."""

from collections.abc import Iterator

import pytest
import torch

from dncbm.encoders.clip import Encoder
from tests.unit.encoders.tiny import tiny_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _one_stream() -> Iterator[None]:
    """How far reading runs ahead of writing follows the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
