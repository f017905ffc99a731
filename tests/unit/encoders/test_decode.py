"""Worker processes on systems where forking is not safe."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from dncbm.encoders import decode
from dncbm.encoders.clip import Encoder
from tests.unit.encoders.memory import Pictures


@pytest.mark.parametrize(
    ("platform", "method"), [("linux", "fork"), ("darwin", "spawn"), ("win32", "spawn")]
)
def test_workers_are_forked_on_linux_alone(
    monkeypatch: pytest.MonkeyPatch, platform: str, method: str
) -> None:
    monkeypatch.setattr(decode, "sys", SimpleNamespace(platform=platform))
    loader = decode._loader(decode._Images(Pictures(), np.asarray), [range(2)], 1)
    assert loader.multiprocessing_context.get_start_method() == method


def test_what_spawned_workers_decode_is_sent_to_them(encoder: Encoder) -> None:
    """Forked ones find it in their memory; both give the same."""
    images = decode._Images(Pictures(), encoder.preprocess.resize)
    copy = pickle.loads(pickle.dumps(images))
    for index in (3, 4):
        ours, theirs = images[index], copy[index]
        assert ours.error == theirs.error
        assert np.array_equal(ours.pixels, theirs.pixels)
