from typing import Any

import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.sae.active import ActiveCodes
from dncbm.sae.config import SaeConfig
from dncbm.sae.levels import Levels, nested_reconstructions, ranks


def _codes(table: list[list[float]]) -> ActiveCodes:
    """The entries above 0."""
    dense = torch.tensor(table, dtype=torch.float64)
    rows, concepts = dense.nonzero(as_tuple=True)
    starts = torch.searchsorted(rows, torch.arange(len(dense)))
    return ActiveCodes(dense[rows, concepts], concepts, rows, starts)


TABLE = [[0, 3, 1, 0, 2], [0, 0, 0, 0, 0], [5, 0, 0, 0, 0], [0, 0, 2, 4, 2]]


def test_ranks_count_from_the_largest_of_each_row_and_ties_keep_their_order() -> None:
    assert ranks(_codes(TABLE)).tolist() == [0, 2, 1, 0, 1, 0, 2]


def test_concepts_belong_to_the_level_in_which_they_lie() -> None:
    levels = Levels("concepts", (1, 3, 5))
    assert levels.of(_codes(TABLE)).tolist() == [1, 1, 2, 0, 1, 2, 2]


def test_codes_past_the_last_end_belong_to_the_last_level() -> None:
    levels = Levels("rank", (1, 2))
    assert levels.of(_codes(TABLE)).tolist() == [0, 1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(("by", "ends"), [("concepts", (1, 3, 5)), ("rank", (1, 2, 3))])
def test_each_level_adds_to_the_ones_before(by: Any, ends: tuple[int, ...]) -> None:
    directions = torch.randn(5, 4, dtype=torch.float64)
    found = nested_reconstructions(_codes(TABLE), directions, Levels(by, ends))
    for row, values in enumerate(TABLE):
        order = range(5) if by == "concepts" else sorted(range(5), key=lambda c: -values[c])
        for level, end in enumerate(ends):
            expected = sum(values[c] * directions[c] for c in list(order)[:end])
            torch.testing.assert_close(found[row, level], expected)


def test_no_rows_have_no_reconstructions() -> None:
    none = _codes(TABLE)._replace(
        **{name: torch.empty(0, dtype=torch.int64) for name in ("concepts", "rows", "starts")},
        values=torch.empty(0, dtype=torch.float64),
    )
    directions = torch.randn(5, 4, dtype=torch.float64)
    assert nested_reconstructions(none, directions, Levels("rank", (1, 2))).shape == (0, 2, 4)


def test_weights_sum_to_one_and_may_fall() -> None:
    assert Levels("rank", (1, 2, 4)).weights() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert Levels("rank", (1, 2, 4), "reverse").weights() == pytest.approx([1 / 2, 1 / 3, 1 / 6])


@pytest.mark.parametrize("ends", [(), (0, 3), (-1, 3), (2, 2), (3, 1)])
def test_ends_that_do_not_rise_are_refused(ends: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="above 0 and"):
        Levels("rank", ends)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": (0.5, 1.0), "activation": "relu"}, "topk or batchtopk, not 'relu'"),
        ({"levels": (0.5, 1.0), "activation": "gated"}, "topk or batchtopk, not 'gated'"),
        ({"levels": (0.25, 0.5)}, "end at 0.5; the last end must be 1.0"),
        ({"levels": (1.0, 2.0), "levels_by": "rank"}, "end at 2; the last end must be 1.0"),
        ({"levels": (0.5, 0.25, 1.0)}, "ascending"),
        ({"levels": (0.0, 1.0)}, "above 0"),
        ({"sparsity_warmup": 1.5}, "sparsity_warmup is 1.5; it is a share of the steps"),
        ({"levels": (float("nan"), 1.0)}, "each end must be finite"),
        ({"levels": (0.5, float("inf"))}, "each end must be finite"),
        ({"archetypes": 5, "resample_every": 2}, "mixtures of archetypes"),
        ({"activation": "jumprelu", "bandwidth": 0.0}, "bandwidth is 0.0; the rule is > 0"),
        ({"archetypes": -1}, "archetypes is -1"),
        ({"relaxation": -0.5}, "relaxation is -0.5"),
        ({"l0": -0.5}, "l0 is -0.5"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        SaeConfig(**{"embed_dim": 4, "num_concepts": 12, "k": 3} | changes)


def test_ends_are_shares_of_the_dictionary_or_of_k() -> None:
    shares = SaeConfig(embed_dim=4, num_concepts=12, k=3, levels=(0.25, 1.0))
    assert shares.build_levels() == Levels("concepts", (3, 12))
    counts = SaeConfig(embed_dim=4, num_concepts=12, k=3, levels=(0.3, 1.0), levels_by="rank")
    assert counts.build_levels() == Levels("rank", (1, 3))
    assert SaeConfig(**counts.as_dict()) == counts
    small = SaeConfig(embed_dim=4, num_concepts=12, k=3, levels=(0.01, 0.02, 1.0))
    assert small.build_levels() == Levels("concepts", (1, 12))


def test_a_variant_that_has_no_use_for_k_fits_a_small_dictionary() -> None:
    for activation in ("relu", "gated"):
        assert SaeConfig(embed_dim=4, num_concepts=5, activation=activation).k == 32
