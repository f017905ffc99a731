"""Large dictionaries have a rough map at once and a better one later."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api import layouts
from api.layouts import Layout
from dncbm.naming import map as maps

URL = "/v1/dictionaries/clothing/map"
DIRECTIONS = np.random.default_rng(0).normal(size=(12, 4))


class Gate:
    """Holds the thread that computes until the test opens it."""

    def __init__(self, compute: Callable[[np.ndarray], maps.ConceptMap]) -> None:
        self.compute = compute
        self.is_open = threading.Event()
        self.asked = 0

    def __call__(self, directions: np.ndarray) -> maps.ConceptMap:
        self.asked += 1
        assert self.is_open.wait(30)
        return self.compute(directions)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate(maps.concept_map)
    monkeypatch.setattr(layouts, "map_apart", made)
    monkeypatch.setattr(layouts, "AT_ONCE", 5)
    return made


def finish() -> None:
    for thread in threading.enumerate():
        if thread.name == "layout":
            thread.join(30)


def test_a_rough_map_until_the_better_one_is_there(client: TestClient, gate: Gate) -> None:
    first = client.get(URL)
    tag = {"If-None-Match": first.headers["etag"]}
    assert (first.json()["method"], first.json()["is_final"]) == ("pca", False)
    assert max(map(abs, first.json()["x"])) == pytest.approx(1)
    assert client.get(URL, headers=tag).status_code == 304
    gate.is_open.set()
    finish()
    second = client.get(URL, headers=tag)
    assert (second.status_code, second.json()["method"]) == (200, "pca+tsne")
    assert second.json()["is_final"]
    tag = {"If-None-Match": second.headers["etag"]}
    assert client.get(URL, headers=tag).status_code == 304
    assert gate.asked == 1


def test_who_waits_for_a_turn_takes_what_the_other_kept(gate: Gate, tmp_path: Path) -> None:
    one, two = (Layout(DIRECTIONS, tmp_path) for _ in range(2))
    assert [one.now[1], two.now[1]] == [False, False]
    gate.is_open.set()
    finish()
    assert gate.asked == 1
    (found, is_final), (same, _) = one.now, two.now
    assert is_final
    np.testing.assert_array_equal(found.places, same.places)
    third, is_final = Layout(DIRECTIONS, tmp_path).now
    assert is_final
    np.testing.assert_array_equal(third.places, found.places)


def test_places_stay_rough_where_better_ones_cannot_be_had(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: np.ndarray) -> maps.ConceptMap:
        raise MemoryError("no memory")

    gate.compute = fails
    made = Layout(DIRECTIONS, None)
    gate.is_open.set()
    finish()
    found, is_final = made.now
    assert (found.method, is_final) == ("pca", True)
    assert "stays rough" in caplog.text


def test_the_very_many_are_laid_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "AT_ONCE", 5)
    monkeypatch.setattr(maps, "MOST_FOR_TSNE", 10)
    found, is_final = Layout(DIRECTIONS, None).now
    assert (found.method, is_final) == ("pca", True)


def test_a_process_of_its_own_finds_the_same_places() -> None:
    found = layouts.map_apart(DIRECTIONS)
    np.testing.assert_array_equal(found.places, maps.concept_map(DIRECTIONS).places)


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(ChildProcessError, match="NaN"):
        layouts.map_apart(np.full((12, 4), np.nan))
