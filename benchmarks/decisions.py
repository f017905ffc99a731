"""How accurate are decisions of five concepts: the paper's recipe beside ours, part by part.

    python -m benchmarks.decisions --json --models MODEL_DIR... [--clip FILE.npz]

MODEL_DIR is what `dncbm quickstart` left (its embeddings are used). FILE.npz holds `vectors` (n, d)
and `label` (n; '' where unknown): every row with a label is tested once, in five folds. Heads of
the paper's probe keep the largest weights of each class and nothing is fitted again; "paper's
dictionary, our heads" tells how much of the difference is the heads'. `active` is the number of
active concepts of a test row: the paper's penalty hardly switches any off, a hundred times the
penalty comes nearer to ours. Seeds are of dictionary and probe alike; test rows choose nothing.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks._harness import Row, finish, parser
from dncbm.encoders.artifact import load_embeddings
from dncbm.encoders.labelled import labelled_rows
from dncbm.errors import InvalidInput
from dncbm.probe.metrics import accuracy, probe_logits
from dncbm.probe.model import Probe
from dncbm.probe.train import ProbeConfig, train_probe
from dncbm.probe.truncation import largest_weights
from dncbm.sae.encode import encode_rows
from dncbm.sae.presets import preset
from dncbm.sae.train import train_sae
from pipelines.bottleneck import class_names

NECS = (5, 10)
_TWICE = "default, twice as many active"
RULES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "paper": ("dncbm-paper", "paper", {}),
    "paper, 100 times the L1 penalty": ("dncbm-paper", "paper", {"l1": 3e-3}),
    "paper's dictionary, our heads": ("dncbm-paper", "elastic-net", {}),
    "default": ("default", "elastic-net", {}),
    _TWICE: ("default", "elastic-net", {}),
}
"""Preset and what it overrides; the probe's solver."""
_FOLDS = 5
_FEWEST = 20
_SHARED = Path(os.environ.get("DNCBM_SHARED", Path(__file__).parents[1] / "shared"))
_CLIP = _SHARED / "data" / "clip_vitb32" / "image_embeddings.npz"


@dataclass(frozen=True)
class Case:
    """Rows that train the dictionary, and labelled rows by split."""

    name: str
    rows: Tensor
    labelled: dict[str, tuple[Tensor, np.ndarray]]
    classes: tuple[str, ...]


def of_model(folder: Path) -> list[Case]:
    """Embeddings that a pipeline made, in its own splits."""
    found = load_embeddings(folder / "embeddings")
    classes = class_names(found)
    labelled = {
        split: (torch.from_numpy(found.load(rows)), labels)
        for split, (rows, labels) in labelled_rows(found, classes).items()
        if len(rows)
    }
    rows = torch.from_numpy(found.load(found.rows("train")))
    return [Case(folder.name, rows, labelled, classes)]


def of_vectors(path: Path) -> list[Case]:
    """One case per fold; classes of at least 20 rows count."""
    stored = np.load(path, allow_pickle=False)
    vectors = functional.normalize(torch.from_numpy(stored["vectors"]).float(), dim=-1)
    names, which = np.unique(stored["label"], return_inverse=True)
    common = [i for i in np.flatnonzero(np.bincount(which) >= _FEWEST) if names[i]]
    known, labels = np.isin(which, common), np.searchsorted(common, which)
    place = np.arange(len(vectors)) % _FOLDS
    cases = []
    for fold in range(_FOLDS):
        splits = {"train": known & (place != fold), "test": known & (place == fold)}
        labelled = {name: (vectors[mine], labels[mine]) for name, mine in splits.items()}
        classes = tuple(names[common])
        cases.append(Case("true CLIP", vectors[place != fold], labelled, classes))
    return cases


def cut(probe: Probe, codes: Any, nec: int) -> Probe:
    """The `nec` largest weights of each class, by what they do to the logits; nothing refitted."""
    spread = np.sqrt(np.asarray(codes.multiply(codes).mean(axis=0)).ravel())
    keep = largest_weights(probe.weights.double().numpy().T * spread[:, None], nec)
    weights = probe.weights * torch.from_numpy(keep.T)
    return Probe(weights, probe.bias, probe.classes)


def measure(case: Case, rule: str, seed: int) -> Row:
    """Right answers on the test rows of a case."""
    dictionary, solver, own = RULES[rule]
    start = time.process_time()
    width = case.rows.shape[1]
    config = preset(dictionary, embed_dim=width, num_rows=len(case.rows), seed=seed, **own)
    if rule == _TWICE:
        config = replace(config, k=2 * config.k)
    model = train_sae(case.rows, config).model
    codes = {split: encode_rows(model, rows) for split, (rows, _) in case.labelled.items()}
    labels = {split: labels for split, (_, labels) in case.labelled.items()}
    necs = () if solver == "paper" else NECS
    trained = train_probe(
        codes, labels, case.classes, ProbeConfig(solver=solver, necs=necs, seed=seed)
    )
    heads = {f"NEC {nec}": head for nec, head in trained.nec_probes.items()}
    if solver == "paper":
        heads = {f"NEC {nec}": cut(trained.probe, codes["train"], nec) for nec in NECS}
    found = {
        name: accuracy(probe_logits(head, codes["test"]), labels["test"])
        for name, head in {"dense": trained.probe, **heads}.items()
    }
    return {"data": case.name, "rule": rule, "test rows": len(labels["test"])} | found | {
        "active": codes["test"].nnz / len(labels["test"]), "CPU s": time.process_time() - start
    }  # fmt: skip


def summary(rows: list[Row]) -> list[Row]:
    """Means over seeds and folds."""
    lines = []
    for data, rule in dict.fromkeys((row["data"], row["rule"]) for row in rows):
        mine = [row for row in rows if (row["data"], row["rule"]) == (data, rule)]
        line: Row = {"data": data, "rule": rule, "runs": len(mine)}
        for name in ("dense", *(f"NEC {nec}" for nec in NECS), "active", "CPU s"):
            line[name] = statistics.fmean(row[name] for row in mine)
        lines.append(line)
    return lines


def ratios(lines: list[Row]) -> dict[str, float | None]:
    """Accuracy of ours over the paper's, each time, and of few concepts over all."""
    by = {(line["data"], line["rule"]): line for line in lines}
    found: dict[str, float | None] = {}
    for data in dict.fromkeys(line["data"] for line in lines):
        if (data, "default") not in by or (data, "paper") not in by:
            continue
        ours, paper = by[data, "default"], by[data, "paper"]
        for name in ("dense", *(f"NEC {nec}" for nec in NECS)):
            found[f"{name} vs paper, {data}"] = ours[name] / paper[name]
        found[f"NEC 5 vs dense, {data}"] = ours["NEC 5"] / ours["dense"]
    return found


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """What can be judged here."""
    if options.clip.is_file():
        yield from of_vectors(options.clip)
    for folder in options.models:
        yield from of_model(folder)


def main() -> None:
    """Print the table and the ratios."""
    made = parser(__doc__)
    made.add_argument("--models", type=Path, nargs="*", default=[], metavar="MODEL_DIR")
    made.add_argument("--clip", type=Path, default=_CLIP, help="true CLIP ViT-B/32 embeddings")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), help="some alone")
    options = made.parse_args()
    rows, notes = [], {}
    if not options.clip.is_file():
        notes["true CLIP"] = f"skipped: {options.clip} is not there; give --clip FILE.npz"
    if not options.models:
        notes["mini"] = "skipped: give --models MODEL_DIR... that dncbm quickstart left"
    for case in cases(options):
        for rule in options.rules:
            for seed in options.seeds:
                try:
                    rows.append(measure(case, rule, seed))
                except InvalidInput as error:  # a penalty that leaves no concept alive
                    notes[f"{case.name}, {rule}, seed {seed}"] = f"left out: {error}"
                    continue
                print(rows[-1], flush=True)
    lines = summary(rows)
    finish("decisions", lines, ratios(lines), options, notes=notes)


if __name__ == "__main__":
    main()
