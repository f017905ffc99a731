from pathlib import Path

import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.sae.train import train_sae, train_sweep
from tests.unit.sae.test_train import _config


@pytest.fixture
def embeddings() -> torch.Tensor:
    return torch.randn(50, 6) + 0.5


SWEEP = (
    {"k": 2},
    {"k": 4, "epochs": 2},
    {"num_concepts": 20, "center": True},
    {"activation": "relu"},
)


def test_a_sweep_gives_what_each_run_gives_alone(tmp_path: Path, embeddings: torch.Tensor) -> None:
    configs = [_config(**changes) for changes in SWEEP]
    seen: list[tuple[int, int]] = []
    found = train_sweep(embeddings, configs, progress=lambda _, *counts: seen.append(counts))
    assert seen[-1] == (16 + 8 + 16 + 16, 56)
    for config, swept in zip(configs, found, strict=True):
        alone = train_sae(embeddings, config)
        assert swept.history == alone.history
        assert torch.equal(swept.model.dictionary, alone.model.dictionary)


def test_a_sweep_reads_every_row_once_per_epoch(embeddings: torch.Tensor) -> None:
    read: list[int] = []

    class Counted:
        shape = (50, 6)

        def __len__(self) -> int:
            return 50

        def gather(self, indices: torch.Tensor) -> torch.Tensor:
            read.append(len(indices))
            return embeddings[indices]

    configs = [_config(k=k) for k in (1, 2, 3)]
    train_sweep(Counted(), configs)
    passes_besides = 1 + 3 * len(configs)  # statistics; evaluation of each, which takes three
    assert sum(read) == 50 * (4 + passes_besides)


def test_a_sweep_continues_each_run_from_its_file(tmp_path: Path, embeddings: torch.Tensor) -> None:
    configs = [_config(k=2), _config(k=4)]
    files = [tmp_path / "2.safetensors", tmp_path / "4.safetensors"]
    train_sae(embeddings, configs[1], checkpoint=files[1])
    found = train_sweep(embeddings, configs, checkpoints=files)
    whole = train_sweep(embeddings, configs)
    for one, other in zip(found, whole, strict=True):
        assert torch.equal(one.model.dictionary, other.model.dictionary)


def test_a_sweep_of_different_batches_is_refused(embeddings: torch.Tensor) -> None:
    for configs in ([], [_config(), _config(seed=4)], [_config(), _config(batch_size=8)]):
        with pytest.raises(InvalidInput, match="all with the same batches"):
            train_sweep(embeddings, configs)
