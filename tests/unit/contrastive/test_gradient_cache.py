"""The gradient cache gives the loss and gradients of the plain step."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dncbm.contrastive.gradient_cache import chunks, embedded
from dncbm.contrastive.scheduled import NTXentLoss, SigLipLoss
from dncbm.contrastive.temperature import Learnable
from dncbm.errors import InvalidInput

ROWS = 11


def _network(*, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(9, dtype=torch.float64) if norm else nn.LayerNorm(9).double()
    parts = [nn.Linear(6, 9), middle, nn.GELU(), nn.Dropout(dropout), nn.Linear(9, 4)]
    return nn.Sequential(*parts).double()


def _rows() -> Tensor:
    return torch.randn(2, ROWS, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _step(
    network: nn.Module, chunk_size: int | None, loss: nn.Module,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> tuple[float, list[Tensor]]:  # fmt: skip
    data = _rows()
    network.zero_grad()
    torch.manual_seed(7)

    def embed(part: slice) -> tuple[Tensor, ...]:
        first, second = (forward or network)(torch.cat([data[0, part], data[1, part]])).chunk(2)
        return first, second

    value = loss(*embedded(network, embed, ROWS, chunk_size)) * 0.5
    value.backward()
    return float(value.detach()), [
        p.grad.clone() for p in network.parameters() if p.grad is not None
    ]


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("kind", [NTXentLoss, SigLipLoss])
def test_loss_and_gradients_equal_the_plain_step(
    chunk_size: int, kind: type[NTXentLoss] | type[SigLipLoss]
) -> None:
    network, loss = _network(), kind(schedule=Learnable(0.3)).double()
    value, gradients = _step(network, None, loss)
    own = loss.log_temperature.grad.clone()  # type: ignore[union-attr]
    loss.zero_grad()
    cached, found = _step(network, chunk_size, loss)
    assert cached == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(loss.log_temperature.grad, own)  # type: ignore[union-attr]
    for mine, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("norm", [False, True])
def test_dropout_and_batch_norms_are_those_of_a_network_called_chunk_by_chunk(norm: bool) -> None:
    """The second pass draws as the first did; running statistics move once."""
    network = _network(norm=norm, dropout=0.4).train()
    other = copy.deepcopy(network)
    data, parts = _rows(), chunks(ROWS, 4)
    torch.manual_seed(7)
    plain = [other(torch.cat([data[0, part], data[1, part]])).chunk(2) for part in parts]
    loss = NTXentLoss(0.2)
    value = loss(*(torch.cat(rows) for rows in zip(*plain, strict=True))) * 0.5
    value.backward()
    cached, found = _step(network, 4, loss)
    assert cached == pytest.approx(float(value.detach()), rel=1e-12)
    wanted = [p.grad for p in other.parameters() if p.grad is not None]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-14)
    for mine, theirs in zip(network.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_way_back_has_the_precision_of_the_way_there() -> None:
    network, seen = _network().float(), []

    def forward(rows: Tensor) -> Tensor:
        found = network(rows.float())
        seen.append(found.dtype)
        return found.float()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        data = _rows()
        embeddings = embedded(
            network, lambda part: (forward(data[0, part]), forward(data[1, part])), ROWS, 4
        )
        loss = NTXentLoss(0.2)(*embeddings)
    loss.backward()
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 2 * 2 * 3


def test_frozen_parts_have_no_gradient() -> None:
    network = _network()
    network[0].requires_grad_(False)
    _step(network, 3, NTXentLoss(0.2))
    assert network[0].weight.grad is None
    assert network[4].weight.grad is not None
    network.requires_grad_(False)
    value = NTXentLoss(schedule=Learnable(0.3)).double()
    assert _step(network, 3, value)[1] == []


def test_chunks_are_even() -> None:
    assert [(c.start, c.stop) for c in chunks(9, 4)] == [(0, 3), (3, 6), (6, 9)]
    for count in range(1, 30):
        for size in range(1, 30):
            parts = chunks(count, size)
            lengths = [c.stop - c.start for c in parts]
            assert sum(lengths) == count
            assert max(lengths) <= size
            assert max(lengths) - min(lengths) <= 1
    with pytest.raises(InvalidInput, match="at least 1"):
        embedded(_network(), lambda part: (), 3, 0)
