"""Which checkpoints stay, how many, and which one is chosen."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dncbm.errors import ArtifactMismatch, InvalidInput
from dncbm.guidance.candidates import TOLERANCE, Candidates, choice, tolerance_of


def _row(accuracy: float, epg: float, iou: float = 0.1) -> dict[str, float]:
    return {"accuracy": accuracy, "epg": epg, "iou": iou}


def _network(value: float) -> nn.Module:
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, value)
    return network


def _filled(folder: Path, rows: dict[int, dict[str, float]], most: int = 8) -> Candidates:
    found = Candidates.open(folder, "run", most)
    for step, row in rows.items():
        found.add(step, row, _network(step))
    return found


ROWS = {
    0: _row(0.90, 0.30), 10: _row(0.80, 0.20), 20: _row(0.93, 0.40), 30: _row(0.928, 0.55),
    40: _row(0.91, 0.70), 50: _row(0.70, 0.60),
}  # fmt: skip


def test_first_last_best_and_front_stay(tmp_path: Path) -> None:
    """What others are better than in all respects goes from the disk at once."""
    found = _filled(tmp_path, ROWS)
    assert found.front() == [30, 40]  # 20 is as accurate as 30 within half a point
    assert found.kept() == {0, 20, 30, 40, 50}
    files = {path.name for path in tmp_path.glob("*.safetensors")}
    assert files == {f"step-{step}.safetensors" for step in found.kept()}
    assert float(found.weights(30)["weight"]) == 30
    with pytest.raises(InvalidInput, match="step 10 were not kept; there are those of 0, 20, 30"):
        found.weights(10)


def test_the_best_reasons_at_half_a_point_lost_are_chosen(tmp_path: Path) -> None:
    """Against the best classification; with more tolerance more."""
    found = _filled(tmp_path, ROWS)
    assert found.chosen() == 30
    assert found.chosen(0.03) == 40
    assert found.chosen(0.0) == 20
    plain = [{"f1": 0.5}, {"f1": 0.7}, {"f1": 0.6}]
    assert choice(plain) == 1


def test_few_photos_are_allowed_a_standard_error() -> None:
    rows = [{"f1": 0.4, "epg": 0.5}, {"f1": 0.37, "epg": 0.7}, {"f1": 0.3, "epg": 0.9}]
    assert tolerance_of(rows, 150) == pytest.approx((61 / 152 * 91 / 152 / 152) ** 0.5)
    assert choice(rows, tolerance_of(rows, 150)) == 1
    assert tolerance_of(rows, 1_000_000) == TOLERANCE
    assert choice(rows, tolerance_of(rows, 1_000_000)) == 0
    assert tolerance_of([{"accuracy": 1.0}], 20) == pytest.approx((21 / 22 / 22 / 22) ** 0.5)
    assert tolerance_of(rows, 4) == 0.05


def test_the_front_is_bounded_and_evenly_thinned(tmp_path: Path) -> None:
    """Its ends stay; the number of files does not grow with the run."""
    rows = {step: _row(0.9 - 0.01 * step, 0.1 + 0.01 * step) for step in range(20)}
    found = _filled(tmp_path, rows, most=4)
    front = found.front()
    assert len(front) == 4
    assert {front[0], front[-1]} == {0, 19}
    assert len(list(tmp_path.glob("*.safetensors"))) <= 4 + 3


def test_an_interrupted_run_finds_its_own_and_no_other(tmp_path: Path) -> None:
    """Figures, and weights, as they were."""
    _filled(tmp_path, ROWS)
    again = Candidates.open(tmp_path, "run", 8)
    assert again.figures == ROWS
    assert torch.equal(again.weights(40)["weight"], torch.full((1, 1), 40.0))
    with pytest.raises(ArtifactMismatch, match="candidates of another run"):
        Candidates.open(tmp_path, "other", 8)
    assert Candidates.open(tmp_path / "new", "run", 8).is_empty()
