"""What guidance costs by depth: a step of training guided at the input, at Mid1-3, at the end.

    python -m benchmarks.guidance.speed --json

One step is forward, attribution of one class per photo, the energy loss on it, and backward through
both. A plain step (classification alone) stands beside. Rao et al. 2023 found guidance at Mid2 1.7
times as fast as at the input. Steps take turns, so that other work on the machine slows all alike.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks._harness import Row, alternate, best_and_median, finish, parser
from dncbm.bcos.models.zoo import create_model
from dncbm.bcos.store import Blueprint
from dncbm.guidance.depths import DEPTHS, layer_at
from dncbm.guidance.loss import energy
from dncbm.guidance.task import Attributor, Classes, guiding_method

KINDS = ("standard", "b-cos")
_CLASSES = 20


def network(kind: str, name: str) -> nn.Module:
    """In training mode, with random weights."""
    torch.manual_seed(0)
    if kind == "b-cos":
        arguments = {"num_classes": _CLASSES}
        made = Blueprint(family="scratch", name=name, arguments=arguments).build()
    else:
        made = create_model(f"standard_{name}", num_classes=_CLASSES)
    return made.to(memory_format=torch.channels_last).train()


def step(model: nn.Module, depth: str | None, images: Tensor) -> Callable[[], object]:
    """One update's gradients; without a depth those of the classification alone."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(0, _CLASSES, (len(images),), generator=draw).to(images.device)
    masks = torch.zeros(len(images), 1, *images.shape[-2:], dtype=torch.bool, device=images.device)
    masks[..., : images.shape[-1] // 2] = True
    layer = None if depth is None else layer_at(model, depth)
    attributor = Attributor(model, Classes(), guiding_method("auto", model), layer)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        if depth is None:
            functional.cross_entropy(model(images), labels).backward()
        else:
            logits, maps = attributor.trained(images, labels[:, None], signed=True)
            (functional.cross_entropy(logits, labels) + energy(maps, masks)).backward()
        if images.is_cuda:
            torch.cuda.synchronize()

    return run


def measure(kind: str, options: argparse.Namespace) -> list[Row]:
    """A row per depth."""
    model = network(kind, options.network).to(options.device)
    images = torch.rand(options.batch, 3, options.pixels, options.pixels, device=options.device)
    images = images.to(memory_format=torch.channels_last)
    runs = {depth or "plain": step(model, depth, images) for depth in (None, *DEPTHS)}
    for run in runs.values():
        run()
    seconds = alternate(runs, turns=options.turns)
    at_input = min(seconds["input"])
    return [
        {
            "network": f"{kind} {options.network}", "guided at": name, **best_and_median(taken),
            "times as fast": at_input / min(taken),
        }
        for name, taken in seconds.items()
    ]  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("--network", default="resnet18")
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--pixels", type=int, default=64)
    made.add_argument("--turns", type=int, default=5)
    made.add_argument("--device", default="cpu")
    options = made.parse_args()
    rows = [row for kind in KINDS for row in measure(kind, options)]
    ratios = {
        f"{row['network']}: mid2 against input": row["times as fast"]
        for row in rows if row["guided at"] == "mid2"
    }  # fmt: skip
    finish("guidance-speed", rows, ratios, options)


if __name__ == "__main__":
    main()
