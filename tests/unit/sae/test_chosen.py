import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from dncbm.sae import chosen
from dncbm.training.workers import ALONE

SHAPES = [(1, 1), (3, 7), (5, 8), (4, 64), (2, 100), (3, 256), (2, 2048), (1, 4096), (0, 64)]
KINDS = ["normal", "ties", "equal", "nan", "infinite", "bfloat16"]


def _table(shape: tuple[int, int], kind: str) -> Tensor:
    table = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    if kind == "ties":
        return (table * 2).round()
    if kind == "equal":
        return torch.zeros(shape)
    if kind in ("nan", "infinite"):
        marks = (torch.nan,) if kind == "nan" else (torch.inf, -torch.inf)
        for number, mark in enumerate(marks):
            table.flatten()[number :: 5 + 2 * number] = mark
    return table.bfloat16() if kind == "bfloat16" else table


def _sorted(values: Tensor) -> Tensor:
    """Descending, NaN first; numpy's order, not torch's."""
    ascending = np.sort(values.double().numpy(), axis=-1)
    return torch.from_numpy(ascending[..., ::-1].copy())


def _equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_largest_of_each_row_are_those_of_a_sort(shape: tuple[int, int], kind: str) -> None:
    table = _table(shape, kind)
    rows, columns = shape
    for k in sorted({1, 2, columns // 33 + 1, columns // 32, columns // 2, columns} - {0}):
        if k <= columns:
            found = chosen.largest_per_row(table, k)
            assert found.shape == (rows, k)
            assert all(len(set(row)) == k for row in found.tolist())
            _equal(_sorted(table.gather(1, found)), _sorted(table)[:, :k])


def test_the_search_by_groups_is_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """4096 columns are cut to 512 and these to 64 groups; only then are all looked at."""
    widths, plain = [], torch.Tensor.topk

    def spied(table: Tensor, *arguments: int, **options: bool) -> Tensor:
        widths.append(table.shape[1])
        return plain(table, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "topk", spied)
    chosen.largest_per_row(torch.randn(2, 4096), 4)
    assert widths == [64, 32, 32]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 2048), (37, 71), (64, 8192)])
def test_the_value_of_a_rank_is_that_of_a_sort(shape: tuple[int, int], kind: str) -> None:
    table = _table(shape, kind)
    everything = _sorted(table.flatten())
    total = table.numel()
    for count in (1, 2, total // 100, total // 3, total - 1, total):
        if 1 <= count <= total:
            _equal(chosen.kth_largest(table, count), everything[count - 1])


def test_a_rank_is_cut_by_a_sample_of_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every eighth entry of this table would be one of its large columns, or never one."""
    table = torch.randn(512, 4096)
    table[:, ::8] += 9
    count, sizes, plain = 32 * len(table), [], torch.Tensor.kthvalue

    def spied(values: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        sizes.append(values.numel())
        return plain(values, rank)

    expected = _sorted(table[:, ::8].flatten())[count - 1]
    monkeypatch.setattr(torch.Tensor, "kthvalue", spied)
    _equal(chosen.kth_largest(table, count), expected)
    assert sizes[0] < table.numel() / 8
    assert count < sizes[1] < 2 * count


def test_a_rank_is_found_where_the_sample_misleads_or_holds_nan() -> None:
    table = torch.randn(256, 4096)
    count = len(table) * 32
    table.flatten()[7] = torch.nan
    _equal(chosen.kth_largest(table, count), _sorted(table.flatten())[count - 1])
    table.flatten()[:: table.numel() // 2**18 | 1] += 9  # the sampled entries, and no others
    count = table.numel() // 8
    _equal(chosen.kth_largest(table, count), _sorted(table.flatten())[count - 1])


class Played:
    """One of several workers, all of whose tables are known here."""

    def __init__(self, rank: int, tables: list[Tensor], per_row: int) -> None:
        self.rank, self.size = rank, len(tables)
        self._tables, self._per_row = tables, per_row

    def share(self, rows: Tensor) -> Tensor:
        return rows

    def sum_(self, *tensors: Tensor) -> None:
        tensors[0].fill_(self._per_row * sum(len(table) for table in self._tables))

    def smallest(self, value: Tensor) -> Tensor:
        """Own bounds of all; of an empty table infinity."""
        self.bounds = [
            _sorted(table.flatten())[self._per_row * len(table) - 1]
            for table in self._tables
            if len(table)
        ]
        return torch.stack(self.bounds).min().to(value.dtype)

    def gather(self, values: Tensor) -> Tensor:
        bound = torch.stack(self.bounds).min()
        assert len(values) == int((~(self._tables[self.rank] < bound)).sum())
        return torch.cat([table[~(table < bound)] for table in self._tables])

    def share_first_(self, *tensors: Tensor) -> None:
        raise AssertionError("selection has nothing to share")


@pytest.mark.parametrize("kind", KINDS)
def test_the_rank_among_the_values_of_all_workers(kind: str) -> None:
    tables = [_table((rows, 40), kind) * scale for rows, scale in ((5, 1), (0, 1), (3, 4), (1, 9))]
    everything = _sorted(torch.cat(tables).flatten())
    for per_row, rank in itertools.product((1, 3, 40), range(4)):
        workers = Played(rank, tables, per_row)
        found = chosen.kth_largest_of_all(tables[rank], per_row, workers)
        _equal(found, everything[9 * per_row - 1])
    alone = chosen.kth_largest_of_all(tables[0], 3, ALONE)
    _equal(alone, _sorted(tables[0].flatten())[14])


def test_positions_are_flat_and_ascending() -> None:
    mask = torch.tensor([[False, True, True], [False, False, False], [True, False, False]])
    assert chosen.positions(mask).tolist() == [1, 2, 6]


@pytest.mark.parametrize(
    ("marked", "dtype", "few"),
    [
        (5, torch.float32, True),
        (6, torch.float32, False),
        (5, torch.float64, True),
        (1, torch.bfloat16, True),
        (2, torch.bfloat16, False),
    ],
)
def test_few_depends_on_the_share_and_on_the_precision(
    marked: int, dtype: torch.dtype, few: bool
) -> None:
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask.view(-1)[:marked] = True
    assert chosen.few(mask, dtype) == few
    assert chosen.few(mask[:0], dtype)


def test_sampled_rows_are_spread_over_the_whole_table() -> None:
    table = torch.arange(1000.0)[:, None].expand(1000, 3)
    sampled = chosen.sampled_rows(table)[:, 0]
    assert 64 <= len(sampled) <= 70
    assert float(sampled[-1]) > 950
    assert len(chosen.sampled_rows(table[:10])) == 10
    assert len(chosen.sampled_rows(table[:0])) == 0
