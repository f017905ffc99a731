"""How much of a planted dictionary every variant finds and names, beside other libraries.

    python -m benchmarks.recovery --json             # small, three seeds, installed peers
    python -m benchmarks.recovery --concepts 4096 --width 512 --rows 200000 --batch-size 4096

Rows are sparse mixtures of random unit directions plus noise, directions as unevenly frequent as
words. Every method gets the same rows, steps and batch size. A direction counts as recovered
where the found direction that is matched to it one to one has a cosine above 0.9. For naming,
each planted direction has a word whose vector is that direction plus noise, beside four times as
many words for nothing; named right means that the matched direction's nearest word is its own.
Peers train on centred and scaled rows from the same kind of start, at each of `--lrs`; the table
keeps the learning rate that recovers most on average, while ours is what the preset says.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks._harness import finish, parser
from benchmarks._sae_peers import PEERS, Task, Trainer, installed
from dncbm.data.planted import match_dictionaries, planted_dictionary, planted_embeddings
from dncbm.sae.metrics import unexplained_variance
from dncbm.sae.model import SaeModel
from dncbm.sae.presets import PRESETS, preset
from dncbm.sae.train import train_sae

HELD_OUT = 4096
WORD_NOISE = 1.0
"""Length of the noise in a word's vector, relative to its direction."""
WORDS_FOR_NOTHING = 4
OWN = ("default", *sorted(set(PRESETS) - {"default", "dncbm-paper"}), "dncbm-paper")
OF_PEERS = [key for key in PEERS if key[1] in ("relu", "topk", "batchtopk", "matryoshka")]


def train_own(method: str, rows: Tensor, options: argparse.Namespace, seed: int) -> SaeModel:
    """The model that a preset finds."""
    per_epoch = -(-options.rows // options.batch_size)
    config = preset(
        method,
        embed_dim=options.width,
        num_rows=options.rows,
        num_concepts=options.concepts,
        batch_size=options.batch_size,
        epochs=-(-options.steps // per_epoch),
        max_steps=options.steps,
        k=options.k,
        seed=seed,
    )
    return train_sae(rows, config).model


def train_peer(
    key: tuple[str, str], peer: tuple[Any, float], rows: Tensor, options: Any, seed: int
) -> Trainer:
    """A peer's training, with its module and learning rate, on standardised rows."""
    stream = torch.Generator().manual_seed(seed)
    start = torch.randn(options.concepts, options.width, generator=stream)
    task = Task(
        functional.normalize(start, dim=1),
        options.k,
        options.l1,
        peer[1],
        options.steps,
        options.batch_size,
    )
    trainer, done = PEERS[key](peer[0], task), 0
    while done < options.steps:
        order = torch.randperm(len(rows), generator=stream)
        for indices in order.split(options.batch_size)[: options.steps - done]:
            trainer.step(rows[indices])
            done += 1
    return trainer


def judge(dictionary: Tensor, truth: Tensor, seed: int) -> dict[str, float]:
    """Recovery and naming of a found dictionary."""
    matching = match_dictionaries(dictionary, truth)
    stream = torch.Generator().manual_seed(seed)
    words = torch.cat(
        [truth, torch.randn(WORDS_FOR_NOTHING * len(truth), truth.shape[1], generator=stream)]
    )
    words = functional.normalize(words, dim=1)
    noise = torch.randn(words.shape, generator=stream) / words.shape[1] ** 0.5
    words = functional.normalize(words + WORD_NOISE * noise, dim=1)
    found = functional.normalize(dictionary.float(), dim=1)[matching.found]
    named = (found @ words.T).argmax(dim=1).numpy() == matching.truth
    return {
        "recovered": matching.recovered_fraction,
        "mean cosine": matching.mean_cosine,
        "named right": float(named.sum() / len(truth)),
    }


def measure(
    key: tuple[str, str], peer: tuple[Any, float], options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train once and judge; seconds are processor seconds of training."""
    truth = planted_dictionary(options.concepts, options.width, seed=seed)
    rows, codes = planted_embeddings(
        truth, options.rows, active=tuple(options.active), noise=options.noise, seed=seed
    )
    library, method = key
    start = time.process_time()
    if library == "dncbm":
        model = train_own(method, rows, options, seed)
        seconds, dictionary = time.process_time() - start, model.dictionary.detach()
        with torch.no_grad():
            found = model(rows[:HELD_OUT])
        error, l0 = found.reconstruction, float((found.codes > 0).sum() / HELD_OUT)
        error = unexplained_variance(rows[:HELD_OUT], error)
    else:
        centred = rows - rows.mean(dim=0)
        centred /= centred.square().mean().sqrt()
        trainer = train_peer(key, peer, centred, options, seed)
        seconds, dictionary = time.process_time() - start, trainer.dictionary()
        with torch.no_grad():
            rebuilt, active = trainer.output(centred[:HELD_OUT])
        error, l0 = unexplained_variance(centred[:HELD_OUT], rebuilt), 0.0
        l0 = float((active > 0).sum() / HELD_OUT)
    return {
        "implementation": library,
        "method": method,
        "lr": peer[1],
        "seed": seed,
        **judge(dictionary, truth, seed),
        "unexplained variance": error,
        "L0": l0,
        "planted L0": codes.nnz / options.rows,
        "CPU s": seconds,
    }


def best_rate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the learning rate that recovers most on average."""
    rates = {row["lr"] for row in rows}
    by_rate = {rate: [row for row in rows if row["lr"] == rate] for rate in rates}
    return max(by_rate.values(), key=lambda mine: statistics.fmean(r["recovered"] for r in mine))


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per method: means over seeds, and the range of what is recovered."""
    lines = []
    for key in dict.fromkeys((row["implementation"], row["method"]) for row in rows):
        mine = best_rate([row for row in rows if (row["implementation"], row["method"]) == key])
        line: dict[str, Any] = {"implementation": key[0], "method": key[1], "seeds": len(mine)}
        for name in mine[0]:
            if name not in ("implementation", "method", "seed"):
                line[name] = statistics.fmean(row[name] for row in mine)
        recovered = [row["recovered"] for row in mine]
        line["recovered, range"] = f"{min(recovered):.3f} to {max(recovered):.3f}"
        lines.append(line)
    return lines


def ratios(lines: list[dict[str, Any]]) -> dict[str, float | None]:
    """What the default recovers and names against the best peer, and the best of our variants."""
    own = {line["method"]: line for line in lines if line["implementation"] == "dncbm"}
    peers = [line for line in lines if line["implementation"] != "dncbm"]
    if "default" not in own:
        return {}
    found: dict[str, float | None] = {}
    for name, key in (("recovered", "recovered"), ("named", "named right")):
        best = max((line[key] for line in peers), default=None)
        found[f"{name}_vs_best_peer"] = own["default"][key] / max(best, 1e-9) if best else None
    return found


def main() -> None:
    """Train everything, print the table, write JSON and PNG."""
    made = parser(__doc__)
    made.add_argument("--methods", nargs="*", choices=OWN, default=list(OWN[:-1]))
    made.add_argument("--peers", nargs="*", default=[f"{a}:{b}" for a, b in OF_PEERS])
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--concepts", type=int, default=512)
    made.add_argument("--width", type=int, default=128)
    made.add_argument("--rows", type=int, default=40_000)
    made.add_argument("--active", type=int, nargs=2, default=(8, 16))
    made.add_argument("--noise", type=float, default=0.2)
    made.add_argument("--batch-size", type=int, default=1024)
    made.add_argument("--steps", type=int, default=1500)
    made.add_argument("--k", type=int, default=16)
    made.add_argument("--l1", type=float, default=4.0, help="of the peers with an L1 penalty")
    made.add_argument("--lrs", type=float, nargs="+", default=[1e-3, 4e-3], help="of the peers")
    options = made.parse_args()
    torch.set_num_threads(1)
    wanted = [("dncbm", method) for method in options.methods]
    wanted += [(library, kind) for library, _, kind in (p.partition(":") for p in options.peers)]
    known, missing, rows = installed(), {}, []
    for seed in options.seeds:
        for key in wanted:
            if key[0] != "dncbm" and known[key[0]].module is None:
                missing[key[0]] = known[key[0]].reason
                continue
            module = known[key[0]].module if key[0] in known else None
            for rate in options.lrs if module else [0.0]:
                rows.append(measure(key, (module, rate), options, seed))
                print(rows[-1], flush=True)
    lines = summary(rows)
    finish("recovery", lines, ratios(lines), options, notes={"missing": missing})


if __name__ == "__main__":
    main()
