"""Splits: given ones kept, missing ones filled, every class trained and tested."""

from collections import Counter

import pytest

from dncbm.data.splits import assign_splits, normalise_split
from dncbm.errors import InvalidInput


def _counts(labels: list[str | None], splits: list[str]) -> dict[str | None, Counter[str]]:
    found: dict[str | None, Counter[str]] = {}
    for label, split in zip(labels, splits, strict=True):
        found.setdefault(label, Counter())[split] += 1
    return found


def test_shares_hold_within_every_class() -> None:
    labels = ["a"] * 100 + ["b"] * 50
    splits = assign_splits(labels, [None] * 150, seed=0)
    assert _counts(labels, splits) == {
        "a": Counter(train=70, validation=10, test=20),
        "b": Counter(train=35, validation=5, test=10),
    }


@pytest.mark.parametrize("count", range(3, 12))
def test_three_of_a_class_give_train_and_test(count: int) -> None:
    splits = Counter(assign_splits(["a"] * count, [None] * count, seed=1))
    assert splits["train"] >= 1
    assert splits["test"] >= 1


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_are_only_trained_on(count: int) -> None:
    assert assign_splits(["a"] * count, [None] * count, seed=1) == ["train"] * count


def test_the_seed_decides_and_nothing_else() -> None:
    labels = ["a", "b"] * 20
    first = assign_splits(labels, [None] * 40, seed=3)
    assert first == assign_splits(labels, [None] * 40, seed=3)
    assert first != assign_splits(labels, [None] * 40, seed=4)


def test_ids_make_a_split_independent_of_order() -> None:
    ids = [f"photo-{i}" for i in range(30)]
    first = dict(zip(ids, assign_splits(["a"] * 30, [None] * 30, seed=0, ids=ids), strict=True))
    back = ids[::-1]
    again = dict(zip(back, assign_splits(["a"] * 30, [None] * 30, seed=0, ids=back), strict=True))
    assert first == again


def test_complete_given_splits_are_kept() -> None:
    given = ["train", "val", "test", "dev", "training"]
    assert assign_splits(["a"] * 5, given, seed=0) == [
        "train", "validation", "test", "validation", "train",
    ]  # fmt: skip


def test_a_split_that_nobody_has_is_carved_out_of_train() -> None:
    given = ["train"] * 20 + ["test"] * 5
    splits = assign_splits(["a"] * 25, given, seed=0)
    assert splits[20:] == ["test"] * 5
    assert Counter(splits[:20]) == Counter(train=18, validation=2)


def test_undecided_records_fill_what_is_missing() -> None:
    given = ["test"] * 5 + [None] * 20
    splits = assign_splits(["a"] * 25, given, seed=0)
    assert Counter(splits) == Counter(test=5, train=18, validation=2)


def test_a_source_with_test_photos_only_stays_so() -> None:
    assert assign_splits(["a"] * 4, ["test"] * 4, seed=0) == ["test"] * 4


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        (["holdout"], {}, "Unknown split 'holdout'"),
        ([None, None], {}, "1 labels but 2 splits"),
        ([None], {"test": 0.6, "validation": 0.4}, "sum below 1"),
        ([None], {"test": -0.1}, "must not be negative"),
    ],
)
def test_wrong_wishes_are_named(splits: list[str], options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        assign_splits(["a"], splits, seed=0, **options)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train2017", "train"),
        ("VAL", "validation"),
        ("test-2", "test"),
        ("cats", None),
        ("2017", None),
    ],
)
def test_usual_spellings(name: str, split: str | None) -> None:
    assert normalise_split(name) == split
