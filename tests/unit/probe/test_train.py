import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from dncbm.errors import InvalidInput, UnknownName
from dncbm.probe import train
from dncbm.probe.loss import Design
from dncbm.probe.memo import Memo, Packed, identity_of
from dncbm.probe.metrics import probe_logits
from dncbm.probe.solvers import null_solution
from dncbm.probe.train import NO_SIGNAL, ProbeConfig, TrainedProbe, train_probe
from tests.unit.probe.conftest import make_codes

SMALL = ProbeConfig(necs=(2, 5), path_points=12)


@pytest.fixture(scope="module")
def trained(world) -> TrainedProbe:
    return train_probe(*world, SMALL)


def same(a: TrainedProbe, b: TrainedProbe) -> bool:
    pairs = zip(a.heads().values(), b.heads().values(), strict=True)
    return a.metrics == b.metrics and all(
        torch.equal(x.weights, y.weights) and torch.equal(x.bias, y.bias) for x, y in pairs
    )


def test_heads_hold_the_wanted_number_of_concepts(trained):
    for nec in (2, 5):
        assert ((trained.nec_probes[nec].weights != 0).sum(dim=1) <= nec).all()
        assert trained.metrics["nec"][f"nec{nec}"] == pytest.approx(nec)
    assert set(trained.heads()) == {"dense", "nec2", "nec5"}


def test_metrics_are_those_of_the_exported_heads(trained, world):
    codes, labels, _ = world
    for split in ("train", "validation", "test"):
        for name, head in trained.heads().items():
            guess = probe_logits(head, codes[split]).argmax(axis=1)
            assert trained.metrics["accuracy"][split][name] == (guess == labels[split]).mean()
    assert trained.metrics["accuracy"]["test"]["dense"] > 0.7
    assert trained.metrics["notes"] == []
    json.dumps(trained.metrics, allow_nan=False)


def test_few_concepts_use_fewer_per_decision(trained):
    ncc = trained.metrics["ncc"]
    assert ncc["nec2"] <= 2
    assert ncc["nec2"] < ncc["dense"]


def test_temperature_improves_validation_cross_entropy(trained, world):
    from dncbm.probe.metrics import cross_entropy

    codes, labels, _ = world
    logits = probe_logits(trained.probe, codes["validation"])
    before = cross_entropy(logits, labels["validation"])
    after = cross_entropy(logits / trained.temperatures["dense"], labels["validation"])
    assert after <= before + 1e-3  # the targets are smoothed


def test_no_calibrated_error_on_the_rows_of_the_calibration(trained):
    assert set(trained.metrics["ece"]) == {"train", "validation", "test"}
    assert set(trained.metrics["ece_calibrated"]) == {"train", "test"}


def test_path_runs_from_no_concept_to_many(trained):
    necs = [point["nec"] for point in trained.history]
    assert necs[0] <= 1
    assert necs[-1] >= 5


def test_sparse_codes_names_and_order_of_splits_do_not_matter(world, trained):
    codes, labels, classes = world
    again = train_probe(
        {name: sp.csr_matrix(codes[name]) for name in ("test", "validation", "train")},
        {name: [classes[i] for i in labels[name]] for name in ("test", "validation", "train")},
        classes,
        SMALL,
    )
    np.testing.assert_allclose(
        again.probe.weights.numpy(), trained.probe.weights.numpy(), atol=1e-4
    )


def test_bare_codes_hold_validation_rows_out(world):
    codes, labels, classes = world
    config = ProbeConfig(necs=(3,), path_points=6, validation_fraction=0.25)
    found = train_probe(codes["train"], labels["train"], classes, config)
    assert set(found.metrics["accuracy"]) == {"train", "validation"}


def test_an_empty_validation_split_counts_as_missing(world):
    codes, labels, classes = world
    found = train_probe(
        {"train": codes["train"], "validation": codes["train"][:0]},
        {"train": labels["train"], "validation": labels["train"][:0]},
        classes,
        ProbeConfig(necs=()),
    )
    assert set(found.metrics["accuracy"]) == {"train", "validation"}
    assert found.nec_probes == {}


def test_one_image_per_class_works_with_a_note(caplog):
    with caplog.at_level(logging.WARNING):
        found = train_probe(np.eye(3), [0, 1, 2], ("a", "b", "c"), SMALL)
    assert "No validation images" in caplog.text
    assert found.metrics["notes"][0].startswith("No validation images")
    assert found.metrics["accuracy"]["train"]["dense"] == 1.0
    assert found.temperatures["dense"] == 1.0


def test_float32_and_balanced_and_global_options(world):
    config = ProbeConfig(
        necs=(4,), path_points=8, precision="float32", balanced=True, truncation="global"
    )
    found = train_probe(*world, config)
    assert found.nec_probes[4].effective_concepts() == pytest.approx(4.0)
    assert found.metrics["balanced_accuracy"]["test"]["nec4"] > 0.5


def test_paper_solver_has_no_bias_and_no_zeros_but_sparse_heads(world):
    config = ProbeConfig(solver="paper", necs=(3,), epochs=30, learning_rate=0.02, sparsity=0.1)
    found = train_probe(*world, config)
    assert not found.probe.bias.abs().max() > 1e-6
    assert (found.probe.weights != 0).all()
    assert found.nec_probes[3].effective_concepts() == 3.0
    assert found.metrics["accuracy"]["test"]["dense"] > 0.6
    assert found.history == []


BAD = [
    (lambda c, y: (c, y[:-1]), "240 rows of codes and 239 labels"),
    (lambda c, y: (np.where(c > 3, np.nan, c), y), "train codes hold NaN or infinity"),
    (lambda c, y: (c * 0, y), "All training codes are zero"),
    (lambda c, y: (c[:0], y[:0]), r"shape \(0, 40\)"),
    (lambda c, y: (c[0], y), "expected \\(images, concepts\\)"),
    (lambda c, y: (c, np.minimum(y, 1)), "1 of 3 classes have no training image: cat"),
    (lambda c, y: (c, y + 1), "Labels run from 1 to 3, but there are 3 classes"),
    (lambda c, y: (c, y.astype(float)), "one class index or class name per row"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_unusable_data_is_refused(world, spoil, message):
    codes, labels, classes = world
    bad_codes, bad_labels = spoil(codes["train"], labels["train"])
    with pytest.raises(InvalidInput, match=message):
        train_probe(bad_codes, bad_labels, classes, SMALL)


def test_unusable_splits_are_refused(world):
    codes, labels, classes = world
    with pytest.raises(InvalidInput, match="Only one class"):
        train_probe(codes["train"], labels["train"] * 0, ("ant",), SMALL)
    with pytest.raises(UnknownName, match="Unknown split 'dev'"):
        train_probe({"train": codes["train"], "dev": codes["test"]}, labels, classes, SMALL)
    with pytest.raises(InvalidInput, match="both need train"):
        train_probe({"train": codes["train"]}, labels, classes, SMALL)
    narrow = {"train": codes["train"], "test": codes["test"][:, :9]}
    with pytest.raises(InvalidInput, match="40 and 9 concepts"):
        train_probe(narrow, {name: labels[name] for name in narrow}, classes, SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "sgd"}, "Unknown solver 'sgd'"),
        ({"truncation": "best"}, "Unknown truncation"),
        ({"precision": "float16"}, "Unknown precision"),
        ({"necs": (5, 0)}, "nec must be >= 1, got 0"),
        ({"l1_ratio": 0.0}, "l1_ratio must lie in"),
        ({"epochs": 0}, "epochs >= 1"),
        ({"validation_fraction": 1.0}, "validation_fraction must lie in"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        ProbeConfig(**options)


def test_a_second_run_reads_every_piece(world, tmp_path, trained, monkeypatch):
    first = train_probe(*world, SMALL, checkpoint=tmp_path / "pieces")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("solved again")

    for name in ("select.ElasticNet.solve", "select.solve_ridge", "heads.refit"):
        monkeypatch.setattr(f"dncbm.probe.{name}", refuse)
    assert same(train_probe(*world, SMALL, checkpoint=tmp_path / "pieces"), first)
    assert same(first, trained)


def test_pieces_of_other_data_are_not_used(world, tmp_path):
    codes, labels, classes = world
    train_probe(codes, labels, classes, SMALL, checkpoint=tmp_path)
    other = codes | {"train": codes["train"] * 1.5}
    resumed = train_probe(other, labels, classes, SMALL, checkpoint=tmp_path)
    assert same(resumed, train_probe(other, labels, classes, SMALL))


def test_pieces_of_another_configuration_are_not_used_and_are_removed(world, tmp_path):
    before = ProbeConfig(necs=(2,), path_points=4)
    train_probe(*world, before, checkpoint=tmp_path)
    kept = set(tmp_path.iterdir())
    (tmp_path / "notes.txt").write_text("not a piece")
    after = ProbeConfig(necs=(2,), path_points=4, balanced=True)
    resumed = train_probe(*world, after, checkpoint=tmp_path)
    assert same(resumed, train_probe(*world, after))
    assert not kept & set(tmp_path.iterdir())
    assert (tmp_path / "notes.txt").exists()
    assert len(list(tmp_path.glob("*.safetensors"))) > 3


CHANGES = {
    "solver": "paper",
    "necs": (7,),
    "truncation": "global",
    "balanced": True,
    "precision": "float32",
    "l1_ratio": 0.5,
    "path_ratio": 0.5,
    "validation_fraction": 0.5,
    "tolerance": 0.5,
    "learning_rate": 0.5,
    "sparsity": 0.5,
}


@pytest.mark.parametrize("field", ProbeConfig.__dataclass_fields__)
def test_every_setting_is_part_of_the_identity_of_a_piece(field):
    value = CHANGES.get(field, 17)
    configs = ProbeConfig(), ProbeConfig(**{field: value})
    a, b = (identity_of(asdict(config), np.eye(2)) for config in configs)
    assert a != b


def test_pieces_take_no_room_for_zeros(tmp_path, rng):
    design = Design.build(rng.random((6, 200)), np.arange(6) % 2, 2)
    weights = np.zeros((200, 2))
    weights[3, 1], weights[9, 0] = -1.5, 2.0
    solution = null_solution(design).with_weights(weights)
    memo = Memo(tmp_path, "0" * 64)
    memo.solution("a", lambda: solution)
    found = memo.solution("a", lambda: pytest.fail("solved again"))
    np.testing.assert_array_equal(found.weights, weights)
    np.testing.assert_array_equal(found.bias, solution.bias)
    assert (found.penalty, found.objective) == (solution.penalty, solution.objective)
    (file,) = tmp_path.glob("*.safetensors")
    assert file.stat().st_size < 1000
    assert len(Packed.of(solution).values) == 2


@pytest.mark.parametrize("solver", ["elastic-net", "paper"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_codes_that_tell_no_class_apart_end_at_the_class_shares(caplog, solver, precision):
    draw = np.random.default_rng(0)
    alike = np.repeat(draw.random((20, 6)), 3, axis=0)  # every image once in each class
    for codes in (np.full((60, 6), 0.37), alike):
        config = ProbeConfig(necs=(2, 4), solver=solver, precision=precision, epochs=3)
        with caplog.at_level(logging.WARNING):
            found = train_probe(
                {"train": codes, "validation": codes},
                {"train": np.arange(60) % 3, "validation": np.arange(60) % 3},
                ("ant", "bee", "cat"),
                config,
            )
        assert found.metrics["accuracy"]["train"]["nec2"] == pytest.approx(1 / 3, abs=0.05)
        assert "stopped after" not in caplog.text
        if solver == "elastic-net":
            assert found.metrics["notes"] == [NO_SIGNAL]
            json.dumps(found.metrics["chosen"], allow_nan=False)
            assert not found.probe.weights.any()


def test_the_same_fit_is_a_source_once(world, monkeypatch):
    seen = []
    real = train.nec_head

    def nec_head(bench, sources, nec, scope):
        seen.append([source.name for source in sources])
        return real(bench, sources, nec, scope)

    monkeypatch.setattr(train, "nec_head", nec_head)
    train_probe(*world, ProbeConfig(solver="paper", necs=(3,), epochs=2))
    assert seen == [["adam"]]


CHILD = """
import os, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from dncbm.probe.train import ProbeConfig, train_probe
from tests.unit.probe.conftest import make_codes

seen = 0
def die(stage, done, total):
    global seen
    seen += 1
    if seen == int(sys.argv[2]):
        os.kill(os.getpid(), 9)

codes, labels = make_codes(120, seed=1)
config = ProbeConfig(solver=sys.argv[4], necs=(2, 5), path_points=8, epochs=6)
train_probe(
    codes, labels, ("ant", "bee", "cat"), config, checkpoint=Path(sys.argv[1]), progress=die
)
"""


@pytest.mark.parametrize(("solver", "step"), [("elastic-net", 6), ("paper", 3)])
def test_a_killed_run_resumes_to_the_same_result(tmp_path, solver, step):
    root = Path(__file__).parents[3]
    arguments = [str(tmp_path), str(step), str(root), solver]
    child = subprocess.run([sys.executable, "-c", CHILD, *arguments], env=os.environ, check=False)
    assert child.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("*.safetensors"))
    codes, labels = make_codes(120, seed=1)
    config = ProbeConfig(solver=solver, necs=(2, 5), path_points=8, epochs=6)
    data = codes, labels, ("ant", "bee", "cat"), config
    stages: list[str] = []
    resumed = train_probe(*data, checkpoint=tmp_path, progress=lambda s, d, t: stages.append(s))
    assert same(resumed, train_probe(*data))
    if solver == "paper":
        assert stages.count("probe") == 6 - step
