"""Codes set, scaled and removed."""

import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.probe.changes import (
    CodeChange,
    change_codes,
    changed_codes,
    changed_concepts,
    parse_changes,
)

NAMES = ["lace", "sneaker", "lace", "red"]


def test_each_change_does_what_it_says_and_no_more() -> None:
    codes = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, 5.0]])
    before = codes.clone()
    changes = parse_changes(
        [
            {"concept": "lace", "set": 7},
            {"concept": 1, "scale": 0.5},
            {"concept": 3, "remove": True},
        ]
    )
    wanted = changed_concepts(changes, NAMES)
    after = change_codes(codes, wanted)
    assert after.tolist() == [[7.0, 1.0, 7.0, 0.0], [7.0, 0.5, 7.0, 0.0]]
    assert torch.equal(codes, before)
    told = changed_codes(wanted, NAMES, codes[0], after[0])
    assert [(one.concept, one.name, one.code_before, one.code_after) for one in told] == [
        (0, "lace", 1.0, 7.0), (2, "lace", 3.0, 7.0), (1, "sneaker", 2.0, 1.0), (3, "red", 4.0, 0.0)
    ]  # fmt: skip


@pytest.mark.parametrize("number", [-0.001, float("nan"), float("inf"), 1e39])
def test_codes_are_finite_and_never_negative(number: float) -> None:
    for change in ({"factor": number}, {"value": number}):
        with pytest.raises(InvalidInput, match="finite number from 0"):
            CodeChange(1, **change)


def test_a_product_that_is_too_large_is_refused() -> None:
    wanted = changed_concepts([CodeChange(1, factor=1e30)], NAMES)
    with pytest.raises(InvalidInput, match="Give a smaller factor"):
        change_codes(torch.full((1, 4), 1e20), wanted)


def test_the_same_concept_twice_is_refused_by_whatever_name() -> None:
    with pytest.raises(InvalidInput, match=r"Concept 2 \('lace'\) is changed twice: by 'lace'"):
        changed_concepts([CodeChange("lace"), CodeChange(2)], NAMES)


def test_a_shared_part_of_names_means_all_unless_it_is_a_name_itself() -> None:
    names = ["dress (red)", "shoe", "dress (blue)", "hat", "hat (wool)"]
    bases = ["dress", "shoe", "dress", "hat", "hat"]
    gone = {name: CodeChange(name) for name in ("dress", "hat")}
    assert list(changed_concepts([gone["dress"]], names, bases)) == [0, 2]
    assert list(changed_concepts([gone["hat"]], names, bases)) == [3]
