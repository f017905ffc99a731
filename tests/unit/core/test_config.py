from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from dncbm.config import check_types
from dncbm.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int = 1
    rate: float = 0.5
    name: str = "a"
    on: bool = True
    limit: float | None = None
    kind: Literal["x", "y"] = "x"
    words: tuple[str, ...] = ()
    sizes: Sequence[int] = (1,)
    table: Mapping[str, Any] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", self.table if self.table is not None else {})
        check_types(self, "test")


def test_values_of_the_declared_types_pass() -> None:
    Settings()
    Settings(rate=1, limit=2, sizes=[1, 2], words=("a",), table={"k": 1}, on=False, kind="z")  # type: ignore[arg-type]
    Settings(steps=np.int64(3), rate=np.float32(0.5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "3"}, "test steps is '3'; it must be a whole number"),
        ({"steps": 1.5}, "test steps is 1.5; it must be a whole number"),
        ({"steps": True}, "test steps is True; it must be a whole number"),
        ({"rate": "fast"}, "test rate is 'fast'; it must be a number"),
        ({"name": 5}, "test name is 5; it must be a text"),
        ({"on": 1}, "test on is 1; it must be true or false"),
        ({"limit": "x"}, "test limit is 'x'; it must be a number or left out"),
        ({"kind": 3}, "test kind is 3; it must be a text"),
        ({"words": "abc"}, "test words is 'abc'; it must be a list of which each is a text"),
        ({"sizes": [1, "2"]}, "it must be a list of which each is a whole number"),
        ({"table": [1]}, "it must be a table"),
    ],
)
def test_other_values_are_named_with_the_rule(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Settings(**change)
