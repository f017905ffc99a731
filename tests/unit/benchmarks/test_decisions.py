import numpy as np
import pytest
import scipy.sparse as sp
import torch

from benchmarks.decisions import cut, of_vectors, ratios, summary
from dncbm.probe.model import Probe


def test_a_cut_head_keeps_what_moves_the_logits_most() -> None:
    codes = sp.csr_matrix([[4.0, 0.0, 1.0], [0.0, 0.0, 1.0], [4.0, 0.1, 1.0]])
    weights = torch.tensor([[0.5, 9.0, 1.0], [-0.1, 1.0, 0.9]])
    probe = cut(Probe(weights, torch.tensor([0.3, 0.2]), ("a", "b")), codes, 1)
    # root mean squares 3.3, 0.06 and 1: not the largest weights are kept
    assert probe.weights.tolist() == [[0.5, 0.0, 0.0], [0.0, 0.0, pytest.approx(0.9)]]
    assert probe.bias.tolist() == pytest.approx([0.3, 0.2])


def test_every_labelled_row_is_tested_once(tmp_path) -> None:
    labels = np.array(["cat"] * 30 + [""] * 10 + ["dog"] * 25 + ["rare"] * 3)
    vectors = np.eye(len(labels), dtype=np.float32) * 3
    np.savez(tmp_path / "f.npz", vectors=vectors, label=labels)
    cases = of_vectors(tmp_path / "f.npz")
    tested = torch.cat([case.labelled["test"][0] for case in cases])
    assert tested.sum(dim=0).tolist() == [1.0] * 30 + [0.0] * 10 + [1.0] * 25 + [0.0] * 3
    for case in cases:
        assert case.classes == ("cat", "dog")
        held = case.labelled["test"][0]
        assert not (case.rows @ held.T).any()  # trains neither dictionary nor probe
        assert not (case.labelled["train"][0] @ held.T).any()
        assert set(case.labelled["train"][1].tolist()) == {0, 1}


def test_ratios_compare_means_over_runs() -> None:
    rows = [
        {
            "data": "x",
            "rule": rule,
            "dense": dense,
            "NEC 5": five,
            "NEC 10": 0.5,
            "active": 9.0,
            "CPU s": 1.0,
        }
        for rule, dense, five in [("paper", 0.8, 0.2), ("default", 0.9, 0.8), ("default", 0.7, 0.8)]
    ]
    found = ratios(summary(rows))
    assert found["dense vs paper, x"] == pytest.approx(1.0)
    assert found["NEC 5 vs paper, x"] == pytest.approx(4.0)
    assert found["NEC 5 vs dense, x"] == pytest.approx(1.0)
    assert ratios(summary(rows[1:])) == {}  # some rules alone: nothing to compare with
