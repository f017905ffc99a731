import time
from pathlib import Path

import numpy as np
import pytest

from dncbm.errors import InvalidInput, Unavailable
from dncbm.sae.config import SaeConfig
from pipelines import ray_training

CONFIG = SaeConfig(embed_dim=4, num_concepts=8, k=2)


def test_without_ray_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(ray_training.importlib, "import_module", absent)
    with pytest.raises(Unavailable, match=r"pip install 'dncbm\[ray\]'"):
        ray_training.train_sae_on_ray(
            tmp_path, np.arange(4), CONFIG, checkpoint=tmp_path / "run", workers=2
        )


def test_no_worker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="workers is 0"):
        ray_training.train_sae_on_ray(
            tmp_path, np.arange(4), CONFIG, checkpoint=tmp_path / "run", workers=0
        )


def test_steps_that_are_written_down_elsewhere_are_reported_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_training, "_POLL_SECONDS", 0.01)
    told, seen = tmp_path / "told", []
    with ray_training._Watched(told, lambda *report: seen.append(report)):
        for text in ("3 10", "", "7 10"):  # in between a reader may see an empty file
            told.write_text(text)
            deadline = time.monotonic() + 5
            while text and (not seen or seen[-1][1] != int(text.split()[0])):
                assert time.monotonic() < deadline
                time.sleep(0.005)
    assert seen == [("sae", 3, 10), ("sae", 7, 10)]
