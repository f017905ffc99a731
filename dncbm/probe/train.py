"""From codes and labels to a dense probe and one head per wanted number of concepts."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from dncbm.config import check_types
from dncbm.errors import InvalidInput, UnknownName
from dncbm.probe.adam import AdamConfig, fit_adam
from dncbm.probe.decisions import plain, short_decisions
from dncbm.probe.heads import nec_head
from dncbm.probe.loss import Design
from dncbm.probe.matrix import Codes, Labels
from dncbm.probe.memo import Memo, identity_of
from dncbm.probe.metrics import (
    accuracy,
    balanced_accuracy,
    calibration,
    calibration_error,
    contributing_concepts,
    cross_entropy,
    fit_temperature,
    probe_logits,
    softmax,
)
from dncbm.probe.model import Probe
from dncbm.probe.select import (
    DEFAULT_RIDGE,
    Bench,
    Candidate,
    best_dense,
    cut_sources,
    dense_fits,
    elastic_net_path,
)
from dncbm.probe.solvers import Solution, SolverOptions, null_solution
from dncbm.probe.splits import HoldOut, Splits, prepare_splits
from dncbm.probe.truncation import TRUNCATIONS, check_nec, to_probe
from dncbm.training.progress import Progress, no_progress
from dncbm.training.threads import threads_for

logger = logging.getLogger(__name__)

SOLVERS = ("elastic-net", "paper")
DENSE = "dense"
_PATH_STOP_FACTOR = 4.0
_NO_SLOPE = 100.0
NO_SIGNAL = (
    "The codes do not tell the classes apart: every concept has the same mean in each class. The "
    "probe knows the class shares only. Check that the images differ, or train the dictionary "
    "again."
)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """How to train the bottleneck's head."""

    solver: str = "elastic-net"
    """`elastic-net`: convex, exact zeros. `paper`: the dense probe is bias-free, by Adam, without
    zeros; its sparse heads are cut from it and refitted as those of `elastic-net`, with a bias."""
    necs: Sequence[int] = (5, 10, 15, 20, 25, 30)
    """Wanted numbers of concepts per class; one head is stored for each."""
    truncation: str = "class"
    """`class`: each class gets the number; `global`: it is an average over classes."""
    l1_ratio: float = 0.99
    """Share of L1 in the elastic net, in (0, 1]."""
    path_points: int = 40
    """Penalties on the path, evenly spaced in the logarithm."""
    path_ratio: float = 1e-3
    """Weakest penalty of the path as a share of the one at which all weights are zero."""
    balanced: bool = False
    """Weigh classes equally instead of images."""
    validation_fraction: float = 0.1
    """Share of the training rows held out where no validation split is given."""
    precision: str = "float64"
    """Arithmetic of the convex solvers."""
    tolerance: float = 1e-2
    """Largest violation of the optimality conditions, as a share of the penalty."""
    max_iterations: int = 2000
    """Steps after which a convex solver gives up (and says so)."""
    learning_rate: float = 1e-3
    """`paper` only: Adam's rate; 1e-2 for CIFAR-100, 0.1 for Waterbirds."""
    sparsity: float = 1.0
    """`paper` only: factor of the mean absolute weight; 10 for Waterbirds."""
    batch_size: int = 512
    """`paper` only."""
    epochs: int = 200
    """`paper` only; the last epoch is kept."""
    seed: int = 0
    """Seeds the held-out rows, and initialisation and order of the `paper` solver."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        check_types(self, "probe")
        if self.solver not in SOLVERS:
            raise UnknownName("solver", self.solver, SOLVERS)
        if self.truncation not in TRUNCATIONS:
            raise UnknownName("truncation", self.truncation, TRUNCATIONS)
        if self.precision not in ("float32", "float64"):
            raise UnknownName("precision", self.precision, ("float32", "float64"))
        object.__setattr__(self, "necs", tuple(self.necs))
        check_nec(self.necs)
        self.adam()
        _check_range("l1_ratio", self.l1_ratio, 1e-6, 1.0)
        _check_range("path_points", self.path_points, 2, 1000)
        _check_range("path_ratio", self.path_ratio, 1e-9, 0.999)
        _check_range("validation_fraction", self.validation_fraction, 1e-6, 0.9)
        _check_range("tolerance", self.tolerance, 1e-12, 1.0)
        _check_range("max_iterations", self.max_iterations, 1, 10**9)

    def adam(self) -> AdamConfig:
        """The settings of the `paper` solver."""
        return AdamConfig(
            learning_rate=self.learning_rate,
            sparsity=self.sparsity,
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=self.seed,
        )

    def hold_out_options(self) -> HoldOut:
        """How to hold validation rows out of the training rows."""
        return HoldOut(fraction=self.validation_fraction, seed=self.seed)


def _check_range(name: str, value: int | float, low: int | float, high: int | float) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"{name} must lie in [{low:g}, {high:g}], got {value}.")


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedProbe:
    """A dense probe, the sparse heads, and what they achieve."""

    probe: Probe
    nec_probes: dict[int, Probe]
    """Head with at most that many concepts per class, by that number."""
    temperatures: dict[str, float]
    """Divide logits by this before the softmax; keys `dense`, `nec5`, ..."""
    metrics: dict[str, Any]
    """`accuracy`, `balanced_accuracy`, `cross_entropy`, `ece`, `ece_calibrated` by split and
    head; `calibration`, `nec`, `ncc`, `chosen` by head; `short_decisions` by head and number of
    listed contributions; `notes`. `ece_calibrated` is not given for the validation split: the
    temperature was fitted on those rows, which makes it too good."""
    history: list[dict[str, float]]
    """One entry per point of the elastic-net path."""

    def heads(self) -> dict[str, Probe]:
        """All heads by name: `dense`, then `nec5`, ..."""
        return {DENSE: self.probe} | {f"nec{nec}": head for nec, head in self.nec_probes.items()}


def train_probe(
    codes: Codes | Mapping[str, Codes],
    labels: Labels | Mapping[str, Labels],
    classes: Sequence[str],
    config: ProbeConfig = ProbeConfig(),
    *,
    checkpoint: Path | None = None,
    progress: Progress = no_progress,
) -> TrainedProbe:
    """Fit, choose on validation, cut to each NEC, calibrate and measure.

    Args:
        codes: codes (n, c) of each split, `{"train": ..., "validation": ..., "test": ...}`,
            dense or sparse, as the SAE gives them; or those of the train split alone. Without
            validation rows a stratified share of the training rows is held out. Test rows
            are only measured.
        labels: class index or name per row, in the same form.
        classes: names of the k >= 2 classes; each needs a training image.
        config: solver, wanted numbers of concepts, seed.
        checkpoint: a directory for solved pieces. A run that was killed and is started again
            with the same arguments reads them and ends with the same result.
        progress: called as `progress(stage, done, total)`.

    Raises:
        InvalidInput: NaN or all-zero codes, one class, a class without image, wrong shapes.
        UnknownName: a label that is not among `classes`, or an unknown split.
    """
    names = tuple(str(name) for name in classes)
    splits = prepare_splits(
        codes, labels, names, options=config.hold_out_options(), dtype=config.precision
    )
    bench = _bench(splits, config, checkpoint, progress)
    # Codes are sparse: what is left for the threads of dense products is small.
    with threads_for(splits.train.matrix.size * len(names)):
        trained = _fitted(splits, names, config, bench)
    bench.memo.forget_others()
    return trained


def _fitted(
    splits: Splits, names: tuple[str, ...], config: ProbeConfig, bench: Bench
) -> TrainedProbe:
    if config.solver == "paper":
        dense, sources, history = _fit_paper(splits, names, config, bench)
    else:
        dense, sources, history = _fit_convex(splits, len(names), config, bench)
    splits = replace(splits, notes=(*splits.notes, *_warnings(dense)))
    heads: dict[int, Candidate] = {}
    for done, nec in enumerate(sorted(set(config.necs)), start=1):
        # With the `paper` solver, or a dense fit off the path, both name the same fit.
        cuts = {item.name: item for item in (*cut_sources(sources, nec), dense)}
        heads[nec] = nec_head(bench, list(cuts.values()), nec, config.truncation)
        bench.progress("probe heads", done, len(set(config.necs)))
    return _trained(dense, heads, names, splits, history)


def _warnings(dense: Candidate) -> tuple[str, ...]:
    """What the user should know about the dense fit."""
    if dense.packed.effective_concepts > 0:
        return ()
    logger.warning(NO_SIGNAL)
    return (NO_SIGNAL,)


def _bench(
    splits: Splits, config: ProbeConfig, checkpoint: Path | None, progress: Progress
) -> Bench:
    train, validation = splits.train, splits.validation
    arrays = [train.matrix, train.labels]
    if validation is not None:
        arrays += [validation.matrix, validation.labels]
    identity = identity_of(asdict(config), *arrays) if checkpoint is not None else ""
    return Bench(
        validation=validation,
        memo=Memo(checkpoint, identity),
        options=SolverOptions(tolerance=config.tolerance, max_iterations=config.max_iterations),
        progress=progress,
    )


_Fits = tuple[Candidate, list[Candidate], list[dict[str, float]]]


def _fit_convex(splits: Splits, num_classes: int, config: ProbeConfig, bench: Bench) -> _Fits:
    """The best dense fit, the elastic-net path to cut heads from, and its history."""
    train = splits.train
    design = Design.build(train.matrix, train.labels, num_classes, balanced=config.balanced)
    highest = design.max_penalty(config.l1_ratio)
    if highest < _NO_SLOPE * np.finfo(design.scale.dtype).eps:
        # The loss is flat at zero weights, which therefore are the minimum at every penalty.
        nothing = bench.measured(
            "class-shares", design, replace(null_solution(design), penalty=0.0)
        )
        return nothing, [], []
    penalties = highest * config.path_ratio ** np.linspace(0, 1, config.path_points)
    path: list[Candidate] = []
    if config.necs:
        stop_at = _PATH_STOP_FACTOR * max(config.necs)
        path = elastic_net_path(bench, design, penalties.tolist(), config.l1_ratio, stop_at)
    dense = best_dense(bench, [*dense_fits(bench, design), *path], DEFAULT_RIDGE)
    return dense, path, [_entry(candidate) for candidate in path]


def _fit_paper(
    splits: Splits, classes: tuple[str, ...], config: ProbeConfig, bench: Bench
) -> _Fits:
    """The paper's probe as dense fit, which is also what heads are cut from."""
    train = splits.train
    weights = fit_adam(
        train.matrix,
        train.labels,
        len(classes),
        config.adam(),
        checkpoint=bench.memo.path("adam"),
        progress=bench.progress,
    )
    design = Design.build(train.matrix, train.labels, len(classes), balanced=config.balanced)
    scaled = weights.double().numpy().T * design.scale[:, None]
    # The shift cancels the implicit centring: the exported bias is zero again.
    solution = _replace_weights(design, scaled, design.shift @ scaled)
    dense = bench.measured("adam", design, solution)
    return dense, [dense], []


def _replace_weights(design: Design, weights: np.ndarray, bias: np.ndarray) -> Solution:
    start = null_solution(design)
    return replace(start, weights=weights, bias=bias, penalty=0.0)


def _entry(candidate: Candidate) -> dict[str, float]:
    solution = candidate.solution
    return {
        "penalty": solution.penalty,
        "nec": solution.effective_concepts,
        "validation_accuracy": candidate.merit[0],
        "objective": solution.objective,
        "violation": solution.violation,
        "iterations": float(solution.iterations),
    }


def _trained(
    dense: Candidate,
    heads: Mapping[int, Candidate],
    classes: tuple[str, ...],
    splits: Splits,
    history: list[dict[str, float]],
) -> TrainedProbe:
    chosen = {DENSE: dense} | {f"nec{nec}": head for nec, head in heads.items()}
    probes = {name: to_probe(item.design, item.solution, classes) for name, item in chosen.items()}
    metrics, temperatures = measure(probes, splits)
    metrics["chosen"] = {
        name: {"from": item.name, "penalty": item.solution.penalty} for name, item in chosen.items()
    }
    return TrainedProbe(
        probe=probes[DENSE],
        nec_probes={nec: probes[f"nec{nec}"] for nec in heads},
        temperatures=temperatures,
        metrics=metrics,
        history=history,
    )


def measure(heads: Mapping[str, Probe], splits: Splits) -> tuple[dict[str, Any], dict[str, float]]:
    """Metrics of every head on every split, and a temperature per head from validation.

    The calibrated error is left out on validation, where the temperature was fitted.
    """
    metrics: dict[str, Any] = {"notes": list(splits.notes)}
    temperatures: dict[str, float] = {}
    honest: dict[str, Any] = {}
    for name, head in heads.items():  # one head and split at a time: logits can be large
        temperatures[name] = 1.0
        if splits.validation is not None:
            logits = probe_logits(head, splits.validation.matrix)
            temperatures[name] = fit_temperature(logits, splits.validation.labels)
        honest[name] = {"temperature": temperatures[name]}
        for split, data in splits.named().items():
            logits = probe_logits(head, data.matrix)
            scores = _scores(logits, data.labels, temperatures[name])
            if split != "train":
                honest[name][split] = calibration(logits, data.labels, temperatures[name])
            if split == "validation":
                del scores["ece_calibrated"]
            for metric, score in scores.items():
                metrics.setdefault(metric, {}).setdefault(split, {})[name] = score
    metrics["calibration"] = {"bins": 15, "binning": "equal mass", "heads": honest}
    judged = splits.test or splits.validation or splits.train
    metrics["nec"] = {name: head.effective_concepts() for name, head in heads.items()}
    metrics["ncc"] = {
        name: contributing_concepts(head, judged.matrix) for name, head in heads.items()
    }
    metrics["short_decisions"] = {
        name: plain(short_decisions(head, judged.matrix, judged.labels))
        for name, head in heads.items()
    }
    return metrics, temperatures


def _scores(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, float]:
    return {
        "accuracy": accuracy(logits, labels),
        "balanced_accuracy": balanced_accuracy(logits, labels),
        "cross_entropy": cross_entropy(logits, labels),
        "ece": calibration_error(softmax(logits), labels),
        "ece_calibrated": calibration_error(softmax(logits / temperature), labels),
    }
