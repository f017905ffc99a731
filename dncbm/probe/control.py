"""How well would random directions do? The solver of the probe, at the penalty that it chose.

Accuracy alone does not show that concepts were found: many random features that are about as
sparse can tell classes apart, too. What the learned concepts add is the distance to them.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dncbm.probe.heads import nec_head
from dncbm.probe.loss import Design
from dncbm.probe.matrix import Codes, Labels
from dncbm.probe.memo import Memo
from dncbm.probe.metrics import accuracy, probe_logits
from dncbm.probe.ridge import solve_ridge
from dncbm.probe.select import RIDGE_STRENGTHS, Bench, Candidate
from dncbm.probe.solvers import ElasticNet, SolverOptions, null_solution
from dncbm.probe.splits import prepare_splits
from dncbm.probe.train import DENSE, ProbeConfig
from dncbm.probe.truncation import to_probe
from dncbm.training.progress import no_progress
from dncbm.training.seeding import derive_seed

_RIDGE = re.compile(r"ridge-(scaled|raw)-(\d+)(-polished)?")
_PATH = re.compile(r"path-(\d+)")


def random_directions(count: int, width: int, seed: int) -> Float[Tensor, "c d"]:
    """Unit rows, uniform on the sphere."""
    draw = torch.Generator().manual_seed(derive_seed(seed, "random-control"))
    return torch.nn.functional.normalize(torch.randn(count, width, generator=draw), dim=1)


def strongest(activations: Float[Tensor, "n c"], counts: Int[np.ndarray, " n"]) -> sp.csr_matrix:
    """Codes that keep the largest positive activations of each row: at most `counts` of them."""
    most = min(int(counts.max(initial=0)), activations.shape[1])
    values, places = activations.topk(most, dim=1)
    kept = (torch.arange(most)[None] < torch.from_numpy(counts)[:, None]) & (values > 0)
    rows = kept.nonzero()[:, 0].numpy()
    table = values[kept].numpy(), (rows, places[kept].numpy())
    return sp.csr_matrix(table, shape=tuple(activations.shape))


def control_accuracy(
    codes: Mapping[str, Codes],
    labels: Mapping[str, Labels],
    classes: Sequence[str],
    config: ProbeConfig,
    chosen: Mapping[str, str],
) -> dict[str, dict[str, float]]:
    """Accuracy by split and head of fits with the given regularisation.

    Args:
        codes: of the control, by split.
        labels: class index per row, by split.
        classes: names of the k classes.
        config: of the probe that is compared.
        chosen: by head (`dense`, `nec5`, ...) the fit that was chosen, as in
            `metrics["chosen"][head]["from"]`. A sparse head is cut from the same fit of the
            control, by the same candidates.

    Returns:
        Without the heads of a solver that takes too long to be run twice.
    """
    splits = prepare_splits(
        codes, labels, classes, options=config.hold_out_options(), dtype=config.precision
    )
    train = splits.train
    design = Design.build(train.matrix, train.labels, len(classes), balanced=config.balanced)
    options = SolverOptions(tolerance=config.tolerance, max_iterations=config.max_iterations)
    bench = Bench(validation=splits.validation, memo=Memo(None, ""), options=options,
                  progress=no_progress)  # fmt: skip
    found: dict[str, dict[str, float]] = {split: {} for split in splits.named()}
    for name, origin in chosen.items():
        fit = _fitted(bench, design, config, origin)
        if fit is None:
            continue
        if name != DENSE:
            fit = nec_head(bench, [fit], int(name.removeprefix("nec")), config.truncation)
        head = to_probe(fit.design, fit.solution, tuple(classes))
        for split, data in splits.named().items():
            found[split][name] = accuracy(probe_logits(head, data.matrix), data.labels)
    return found


def _fitted(bench: Bench, design: Design, config: ProbeConfig, origin: str) -> Candidate | None:
    if found := _RIDGE.search(origin):
        scaled = design if found[1] == "scaled" else design.one_scale()
        penalty = RIDGE_STRENGTHS[int(found[2])] * scaled.total_variance()
        solution = solve_ridge(scaled, null_solution(scaled), penalty, bench.options)
        return bench.measured(found[0], scaled, solution)
    if found := _PATH.search(origin):
        share = np.linspace(0, 1, config.path_points)[int(found[1])]
        penalty = design.max_penalty(config.l1_ratio) * config.path_ratio**share
        net = ElasticNet(design, config.l1_ratio, bench.options)
        return bench.measured(found[0], design, net.solve(null_solution(design), float(penalty)))
    return None
