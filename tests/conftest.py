"""Fixtures that several rooms use."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(os.environ.get("DNCBM_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and embeddings beside the checkout; absent in most places."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip("needs the real photos and embeddings of ../shared/data, which are not here")
    return data
