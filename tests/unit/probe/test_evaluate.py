from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from dncbm.artifacts import Manifest
from dncbm.errors import InvalidInput
from dncbm.probe.evaluate import evaluate
from dncbm.probe.metrics import calibration_error, softmax
from dncbm.probe.model import Probe
from dncbm.probe.store import Cbm

CLASSES = ("hat", "shoe", "shirt")


def bottleneck(weights: np.ndarray) -> Cbm:
    probe = Probe(torch.tensor(weights, dtype=torch.float32), torch.tensor([0.1, 0, 0]), CLASSES)
    few = Probe(probe.weights * (probe.weights.abs() > 1), probe.bias, CLASSES)
    manifest = Manifest(
        kind="cbm", format_version=2, dncbm_version="0", config={}, inputs={}, files={}
    )
    return Cbm(
        path=Path(),
        probe=probe,
        nec_probes={2: few},
        temperatures={"dense": 2.0, "nec2": 1.0},
        metrics={},
        manifest=manifest,
    )


def data() -> tuple[Cbm, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    cbm = bottleneck(draw.normal(size=(3, 5)))
    codes = (draw.exponential(size=(90, 5)) * (draw.random((90, 5)) < 0.6)).astype(np.float32)
    return cbm, codes, draw.integers(0, 3, 90)


def blocks_of(codes: np.ndarray, size: int = 7) -> Any:
    def blocks(positions: np.ndarray) -> Any:
        for start in range(0, len(positions), size):
            yield sp.csr_matrix(codes[positions[start : start + size]])

    return blocks


def test_numbers_are_those_of_all_rows_at_once() -> None:
    cbm, codes, labels = data()
    found = evaluate(cbm, blocks_of(codes), labels)
    logits = cbm.probe.logits(torch.from_numpy(codes)).numpy()
    guesses = logits.argmax(axis=1)
    assert found.images == 90
    assert found.accuracy == pytest.approx((guesses == labels).mean())
    few = cbm.nec_probes[2].logits(torch.from_numpy(codes)).numpy().argmax(axis=1)
    assert found.by_nec == {2: pytest.approx((few == labels).mean())}
    for true in range(3):
        for predicted in range(3):
            here = ((labels == true) & (guesses == predicted)).sum()
            assert found.confusion[true, predicted] == here
    raw = calibration_error(softmax(logits), labels)
    assert found.calibration.ece == pytest.approx(raw)
    calibrated = calibration_error(softmax(logits / 2.0), labels)
    assert found.calibration.ece_calibrated == pytest.approx(calibrated)
    assert sum(one.images for one in found.calibration.bins) == 90


def test_mistakes_name_the_concepts_behind_them() -> None:
    cbm, codes, labels = data()
    found = evaluate(cbm, blocks_of(codes), labels)
    guesses = cbm.probe.logits(torch.from_numpy(codes)).numpy().argmax(axis=1)
    counts = [item.images for item in found.mistakes]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == (guesses != labels).sum()
    weights = cbm.probe.weights.double().numpy()
    for item in found.mistakes:
        rows = codes[(labels == item.true) & (guesses == item.predicted)]
        added = rows.mean(axis=0) * (weights[item.predicted] - weights[item.true])
        best = [c for c in np.argsort(-added) if added[c] > 0][:5]
        assert [concept for concept, _ in item.concepts] == best
        assert [value for _, value in item.concepts] == pytest.approx(added[best].tolist())


def test_no_mistakes() -> None:
    cbm, codes, _ = data()
    guesses = cbm.probe.logits(torch.from_numpy(codes)).numpy().argmax(axis=1)
    found = evaluate(cbm, blocks_of(codes), guesses)
    assert (found.accuracy, found.mistakes) == (1.0, [])


def test_no_images() -> None:
    cbm, codes, _ = data()
    with pytest.raises(InvalidInput, match="no labelled images"):
        evaluate(cbm, blocks_of(codes), np.zeros(0, np.int64))
