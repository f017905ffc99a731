"""Embedding photos beside the bare forward pass, clip-retrieval, and one backend beside another.

    python -m benchmarks.extract                        # rendered scenes, ViT-B/32, random weights
    python -m benchmarks.extract --data photos.zip --encoder ViT-B-32:openai

Everything has the same photos, batch and cores. The bare forward has them decoded already, on all
cores, in the faster of two manners: batch after batch on all threads, or one batch per thread.
Speed does not depend on the weights; the cosine does, so it is measured with those of `mini`, which
are trained, as well. clip-retrieval needs older packages than we do and runs in an environment of
its own: `python -m venv .venv-clip-retrieval`, there `pip install clip-retrieval 'setuptools<81'`.
"""

import argparse
import json
import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from benchmarks._harness import Row, alternate, finish, parser
from dncbm.data.concept_world import write_concept_world
from dncbm.data.images import decode_image
from dncbm.data.sources import ImageSource, open_source
from dncbm.encoders.artifact import SHARDS
from dncbm.encoders.backends.base import BACKENDS, EAGER, ImageBackend, open_backend
from dncbm.encoders.cache import EmbedConfig, embed
from dncbm.encoders.calibrate import choose_backend, smallest_cosine
from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.encoders.shards import ShardJob, run_locally
from dncbm.encoders.streams import Streams, streamed, streams_for, threads_of
from dncbm.errors import DncbmError

RANDOM = "ViT-B-32"
MINI = "mini"


class Bench:
    """One encoder and the photos that all runs share."""

    def __init__(self, encoder: Encoder, source: ImageSource, options: argparse.Namespace) -> None:
        self.encoder = encoder
        self.source = source
        self.turns: int = options.turns
        self.batch: int = options.batch_size
        self.streams = streams_for("cpu")
        self.config = EmbedConfig(batch_size=self.batch, num_workers=options.workers)
        self.count = len(source.records)
        images = [decode_image(source.read(i)) for i in range(self.count)]
        self.pixels = torch.stack([encoder.preprocess(image) for image in images])

    def forward(self, backend: ImageBackend, pixels: torch.Tensor, size: int) -> torch.Tensor:
        """One batch per thread, as many at once as there are cores."""
        with threads_of(self.streams):
            return torch.cat(list(streamed(backend, pixels.split(size), self.streams)))

    def on_all_threads(self, backend: ImageBackend, pixels: torch.Tensor, size: int) -> None:
        """Batch after batch, each on all cores."""
        for batch in pixels.split(size):
            backend(batch)

    def stage(self) -> None:
        """`embed` into a new artifact with PyTorch."""
        with tempfile.TemporaryDirectory() as folder:
            splits = ["train"] * self.count
            embed(self.source, self.encoder, Path(folder) / "e", splits=splits, config=self.config)

    def shards(self, name: str, backend: ImageBackend) -> None:
        """What `embed` does once the backend is chosen."""
        with tempfile.TemporaryDirectory() as folder, threads_of(self.streams):
            (Path(folder) / SHARDS).mkdir()
            config = replace(self.config, backend=name)
            job = ShardJob(
                self.source, self.encoder, config, Path(folder),
                backend=backend, streams=self.streams,
            )  # fmt: skip
            run_locally(job, lambda done: None)

    def rates(self, runs: dict[str, Callable[[], object]], images: int) -> dict[str, float]:
        """Images per second of each run, best of the turns."""
        seconds = alternate(runs, turns=self.turns)
        return {name: images / min(values) for name, values in seconds.items()}


def opened(encoder: Encoder, streams: Streams) -> tuple[dict[str, ImageBackend], dict[str, str]]:
    """Every backend that can be had here, and why the others cannot."""
    found, missing = {}, {}
    for name in BACKENDS:
        try:
            found[name] = open_backend(encoder, name, streams)
        except DncbmError as error:
            missing[name] = str(error)
    return found, missing


def compare_backends(bench: Bench) -> tuple[list[Row], dict[str, str]]:
    """Images per second at batch 16 and batch 1, and the smallest cosine to PyTorch in fp32."""
    size = min(bench.count, 16 * 2 * bench.streams.count)
    pixels = bench.pixels[:size]
    many, missing = opened(bench.encoder, bench.streams)
    single, _ = opened(bench.encoder, Streams(1, bench.streams.cores))
    reference = bench.encoder.encode_images(pixels)
    cosines = {
        name: smallest_cosine(bench.forward(backend, pixels, 16), reference)
        for name, backend in many.items()
    }  # warms up as well
    at_16 = bench.rates(
        {name: lambda b=b: bench.forward(b, pixels, 16) for name, b in many.items()}
        | {"threads": lambda: bench.on_all_threads(single[EAGER], pixels, 16)},
        size,
    )
    few = pixels[:8]
    at_1 = bench.rates(
        {name: lambda b=b: bench.on_all_threads(b, few, 1) for name, b in single.items()}, len(few)
    )
    eager = max(at_16[EAGER], at_16.pop("threads"))
    rows = [
        {
            "encoder": bench.encoder.spec.partition(":")[0],
            "backend": name,
            "batch 16 images/s": at_16[name],
            "batch 1 images/s": at_1[name],
            "x eager (batch 16)": at_16[name] / eager,
            "min cosine": round(cosines[name], 7),
        }
        for name in many
    ]
    return rows, missing


def compare_stage(bench: Bench, peer: Callable[[], object] | None) -> dict[str, float]:
    """Images per second of the whole stage, of the bare forward and of clip-retrieval."""
    choice = choose_backend(
        bench.encoder,
        "auto",
        lambda: bench.pixels[:64],
        images=10**9,  # a job that is long enough to be worth a calibration
        min_cosine=bench.config.min_cosine,
        streams=bench.streams,
    )
    chosen = open_backend(bench.encoder, choice.backend, bench.streams)
    eager = bench.encoder.encode_images
    runs: dict[str, Callable[[], object]] = {
        "bare forward, one batch per thread": lambda: bench.forward(
            eager, bench.pixels, bench.batch
        ),
        "bare forward, all threads": lambda: bench.on_all_threads(eager, bench.pixels, bench.batch),
        "embed": bench.stage,
        "auto bare forward": lambda: bench.forward(chosen, bench.pixels, bench.batch),
        "embed auto": lambda: bench.shards(choice.backend, chosen),
    }
    if peer is not None:
        runs["clip-retrieval"] = peer
    found = bench.rates(runs, bench.count)
    return found | {"chosen": choice.backend}  # type: ignore[dict-item]


@contextmanager
def clip_retrieval(
    folder: Path, weights: Path, options: argparse.Namespace
) -> Iterator[tuple[Callable[[], object] | None, str]]:
    """A pass of clip-retrieval on call, or why there is none."""
    python = options.clip_retrieval
    if not Path(python).is_file():
        yield None, f"{python} is not there; see the top of benchmarks/extract.py"
        return
    script = Path(__file__).with_name("_clip_retrieval.py")
    model = f"open_clip:{RANDOM}/{weights}"
    numbers = [options.batch_size, options.workers, torch.get_num_threads()]
    process = subprocess.Popen(
        [python, str(script), str(folder), model, *map(str, numbers)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None

    def answer() -> dict[str, Any]:
        for line in process.stdout or ():
            if line.startswith("{"):
                return json.loads(line)
        return {}

    def one_pass() -> object:
        print("pass", file=process.stdin, flush=True)
        return answer()

    if answer():
        yield one_pass, ""
        process.stdin.close()
        process.wait()
    else:
        process.wait()
        last = process.stderr.read().strip().splitlines()[-1:]
        yield None, f"it ended before the first pass: {' '.join(last)[:200]}"


def random_weights(path: Path) -> None:
    """Random weights of ViT-B/32 as a checkpoint that both sides read."""
    torch.manual_seed(0)
    model = open_clip.create_model(RANDOM, pretrained=None)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, str(path))


def unpacked(source: ImageSource, folder: Path, count: int) -> ImageSource:
    """A folder with `count` of the photos from all over a source: what both sides read."""
    total = len(source.records)
    folder.mkdir()
    for place in sorted({number * total // count for number in range(count)}):
        suffix = Path(source.records[place].path).suffix
        (folder / f"{place:07d}{suffix}").write_bytes(source.read(place))
    return open_source(str(folder))


def photos(options: argparse.Namespace, folder: Path) -> ImageSource:
    """The photos asked for, or rendered scenes."""
    if options.data is None:
        write_concept_world(folder / "world", num_images=options.images, size=224, seed=0)
    source = open_source(options.data or str(folder / "world"))
    return unpacked(source, folder / "photos", options.images)


def parse() -> argparse.Namespace:
    """The options."""
    made = parser(__doc__)
    made.add_argument("--data", help="photos; default: rendered scenes")
    made.add_argument("--encoder", help="default: ViT-B/32 with random weights")
    made.add_argument("--images", type=int, default=128)
    made.add_argument("--batch-size", type=int, default=16)
    made.add_argument("--workers", type=int, default=2)
    made.add_argument("--turns", type=int, default=2)
    made.add_argument(
        "--clip-retrieval",
        default=".venv-clip-retrieval/bin/python",
        help="the Python of an environment with clip-retrieval",
    )
    return made.parse_args()


def ratios_of(large: dict[str, float], mini: dict[str, float], rows: list[Row]) -> dict[str, Any]:
    """Ours over theirs, each time."""
    peer = large.get("clip-retrieval")
    bare = "bare forward, one batch per thread"
    at_16 = {row["backend"]: row["x eager (batch 16)"] for row in rows}
    return {
        "vs_bare_forward": large["embed"] / max(large[bare], large["bare forward, all threads"]),
        "auto_vs_auto_bare_forward": large["embed auto"] / large["auto bare forward"],
        "vs_clip_retrieval": large["embed"] / peer if peer else None,
        "auto_vs_clip_retrieval": large["embed auto"] / peer if peer else None,
        "auto_vs_eager_fp32": at_16[large["chosen"]],
        "mini_vs_bare_forward": mini["embed"] / max(mini[bare], mini["bare forward, all threads"]),
        "mini_auto_vs_eager_fp32": mini["auto bare forward"]
        / max(mini[bare], mini["bare forward, all threads"]),
    }


def main() -> None:
    """Measure, print, and write the files."""
    options = parse()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        weights = root / "random.safetensors"
        random_weights(weights)
        source = photos(options, root)
        large = Bench(load_encoder(options.encoder or f"{RANDOM}:{weights}"), source, options)
        small = Bench(load_encoder(MINI), source, options)
        backends, missing = compare_backends(large)
        mini_backends, _ = compare_backends(small)
        with clip_retrieval(root / "photos", weights, options) as (peer, why):
            stage = compare_stage(large, peer)
        mini = compare_stage(small, None)
    rows = [*backends, *mini_backends]
    for name, rates in (("ViT-B-32", stage), (MINI, mini)):
        rows += [
            {"encoder": name, "stage": run, "images/s": rate}
            for run, rate in rates.items()
            if run != "chosen"
        ]
    notes = {
        "cores": large.streams.cores,
        "weights": options.encoder or "random (ViT-B-32), trained (mini)",
        "auto chose": {"ViT-B-32": stage["chosen"], MINI: mini["chosen"]},
        "missing": missing | ({"clip-retrieval": why} if why else {}),
    }
    finish("extract", rows, ratios_of(stage, mini, backends), options, notes=notes)


if __name__ == "__main__":
    main()
