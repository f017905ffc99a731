"""A contrastive step at a large batch in the memory of a small one: the gradient cache.

    python -m benchmarks.contrastive.memory                     # 4096 in chunks against 256 plain
    python -m benchmarks.contrastive.memory --large 512 --small 64 --width 16

Each step runs in a process of its own, whose peak resident memory above that before the step is
told (`/proc/self/status`, VmHWM), on a GPU the peak of allocated memory. Loss and gradients of the
cached step are compared with the plain step's, in float64 on a network without batch norms, at a
batch that both can hold.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks._harness import Row
from dncbm.contrastive.gradient_cache import embedded
from dncbm.contrastive.networks import new_tower, views_network
from dncbm.contrastive.scheduled import NTXentLoss
from dncbm.data.augment import Augmentation
from dncbm.data.views import Views

SIZE = 32


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", type=int, default=4096)
    parser.add_argument("--small", type=int, default=256)
    parser.add_argument("--chunk-size", type=int, default=128)
    parser.add_argument("--width", type=int, default=64, help="of the ResNet-18")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="file of the result")
    parser.add_argument("--step", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def step(args: argparse.Namespace, batch: int, chunk_size: int) -> Row:
    """One step, and the memory it took; a chunk size of 0 is the plain step."""
    torch.manual_seed(0)
    network = views_network(new_tower("standard_resnet18", SIZE, width=args.width), NTXentLoss(0.2))
    network.to(args.device, memory_format=torch.channels_last).train()
    augmentation = Augmentation(views=Views(size=SIZE, smallest=0.1))
    draw = torch.Generator().manual_seed(1)
    levels = torch.randint(0, 256, (batch, 3, SIZE, SIZE), generator=draw, dtype=torch.uint8)
    levels = levels.to(args.device)
    views = [augmentation.draw(batch, draw) for _ in range(2)]

    def embed(part: slice) -> tuple[torch.Tensor, ...]:
        pixels = [augmentation.apply(levels[part], view[part]) for view in views]
        found: torch.Tensor = network(torch.cat(pixels))
        return found.chunk(2)

    def whole(count: int, chunk: int | None) -> float:
        network.zero_grad()
        loss = network.loss(*embedded(network, embed, count, chunk))
        loss.backward()
        return float(loss.detach())

    whole(8, None)  # libraries take their own memory at the first call
    before = _peak(args.device, reset=True)
    began = time.perf_counter()
    loss = whole(batch, chunk_size or None)
    seconds = time.perf_counter() - began
    return {
        "batch": batch, "chunk_size": chunk_size or None, "loss": loss, "seconds": seconds,
        "mebibytes": (_peak(args.device) - before) / 2**20,
    }  # fmt: skip


def _peak(device: str, *, reset: bool = False) -> int:
    """Most bytes so far; resident ones, or those that the GPU's allocator gave out."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def difference(batch: int = 96, chunk_size: int = 16) -> Row:
    """Largest differences of the cached to the plain step, relative to the largest gradient."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2), nn.GELU(), nn.Conv2d(16, 32, 3, 2), nn.GELU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(64)).double()
    data = torch.randn(2, batch, 3, SIZE, SIZE, dtype=torch.float64)
    found = []
    for chunk in (None, chunk_size):
        network.zero_grad()
        views = embedded(
            network, lambda part: (network(data[0, part]), network(data[1, part])), batch, chunk
        )
        loss = NTXentLoss(0.2)(*views)
        loss.backward()
        found.append((float(loss.detach()), [p.grad.clone() for p in network.parameters()]))
    (plain, gradients), (cached, others) = found
    largest = max(float(g.abs().max()) for g in gradients)
    most = max(float((a - b).abs().max()) for a, b in zip(gradients, others, strict=True))
    return {"loss_difference": abs(plain - cached), "gradient_difference": most / largest}


def _apart(args: argparse.Namespace, batch: int, chunk_size: int) -> Row:
    """The step in a process of its own."""
    command = [
        sys.executable, "-m", "benchmarks.contrastive.memory", "--step", str(batch),
        str(chunk_size), "--width", str(args.width), "--device", args.device,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: Row = json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


def main() -> None:
    """Both steps, and the ratio of their memory."""
    args = arguments()
    if args.step:
        torch.set_num_threads(1)
        print(json.dumps(step(args, *args.step)))
        return
    plain = _apart(args, args.small, 0)
    cached = _apart(args, args.large, args.chunk_size)
    result = {
        "plain": plain, "cached": cached, **difference(), "width": args.width,
        "memory_ratio": cached["mebibytes"] / plain["mebibytes"],
    }  # fmt: skip
    print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
