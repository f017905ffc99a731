"""Train, validation and test: kept as shipped, filled in where missing."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

from dncbm.errors import InvalidInput

SPLITS = ("train", "validation", "test")
_ALIASES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip


def normalise_split(name: str) -> str | None:
    """`train`, `validation` or `test` for a usual spelling (`val`, `train2017`), else None."""
    return _ALIASES.get(re.sub(r"[-_]?\d*$", "", name.strip().lower()))


def assign_splits(
    labels: Sequence[str | None],
    splits: Sequence[str | None],
    *,
    seed: int,
    validation: float = 0.1,
    test: float = 0.2,
    ids: Sequence[str] | None = None,
) -> list[str]:
    """One of `train`, `validation`, `test` per record.

    Given splits are kept. Records without one are dealt out per class. A split that the
    data does not have at all is filled from those records or, if every record has a split,
    from the training records. A class with 3 or more such records gets at least one test
    and one train record. The order within a class is that of a hash of `seed` and the
    record's id (its position, where `ids` is None), so it does not depend on other classes.

    Args:
        labels: class of each record, None where unknown.
        splits: given split of each record, None where there is none.
        seed: decides who goes where.
        validation: share for validation, in [0, 1).
        test: share for test; together with `validation` below 1.
        ids: stable names of the records.

    Raises:
        InvalidInput: shares or a split name out of range, or lengths that differ.
    """
    _check(labels, splits, validation, test)
    given = [None if name is None else _known(name) for name in splits]
    pool = [i for i, name in enumerate(given) if name is None]
    wanted = {name for name in ("validation", "test") if name not in given}
    pool = pool or [i for i, name in enumerate(given) if name == "train"]
    result = [name or "train" for name in given]
    shares = (test if "test" in wanted else 0.0, validation if "validation" in wanted else 0.0)
    for members in _by_class(labels, pool).values():
        ordered = sorted(members, key=lambda i: _order(seed, ids[i] if ids else str(i)))
        _deal(ordered, shares, result)
    return result


def _check(
    labels: Sequence[str | None], splits: Sequence[str | None], validation: float, test: float
) -> None:
    if len(labels) != len(splits):
        raise InvalidInput(
            f"{len(labels)} labels but {len(splits)} splits; both need one a record."
        )
    if min(validation, test) < 0 or validation + test >= 1:
        raise InvalidInput(
            f"validation={validation} and test={test} must not be negative and must leave "
            "something to train on (sum below 1)."
        )


def _known(name: str) -> str:
    found = normalise_split(name)
    if found is None:
        raise InvalidInput(f"Unknown split {name!r}. Use one of {', '.join(SPLITS)}.")
    return found


def _by_class(labels: Sequence[str | None], pool: Sequence[int]) -> dict[str | None, list[int]]:
    classes: dict[str | None, list[int]] = defaultdict(list)
    for index in pool:
        classes[labels[index]].append(index)
    return classes


def _order(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _deal(ordered: Sequence[int], shares: tuple[float, float], result: list[str]) -> None:
    """Write `test` and `validation` for the first members; fewer than 3 all stay in training."""
    count = len(ordered)
    if count < 3:
        return
    num_test = min(max(1, round(count * shares[0])), count - 1) if shares[0] > 0 else 0
    num_validation = min(round(count * shares[1]), count - num_test - 1)
    for position, index in enumerate(ordered[: num_test + num_validation]):
        result[index] = "test" if position < num_test else "validation"
