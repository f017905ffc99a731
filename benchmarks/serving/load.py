"""The service under load beside the encoder by itself, turn by turn in one run.

    python -m benchmarks.serving.load --model DIR --photos clothing.zip

Per number of clients: throughput, p50, p99 and failures. Beside them, in the same turn and with
the same threads, what no service can beat: decoding and encoding one photo, the bare pass over 32
preprocessed photos, and decoding and encoding 32 photos in a process without HTTP, all with the
backend that is served; `bare_eager_ms` is one photo with PyTorch as it is. `--soak SECONDS`
adds a long run with the memory every 30 s and its slope, `--soak-only` nothing else.
"""

import argparse
import shutil
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks._harness import Row, finish, parser
from benchmarks.serving._client import Level, Served
from benchmarks.serving._model import write_random_model
from dncbm.data.images import decode_image
from dncbm.encoders.backends.base import AUTO, EAGER, GRAPH, open_backend
from dncbm.encoders.streams import streams_for
from dncbm.errors import Unavailable
from dncbm.predictor import Predictor

_BATCH = 32
_EVERY = 30.0
"""Seconds between two looks at the memory."""


def main() -> None:
    """Run it."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or write_random_model(Path(folder) / "random", options.encoder)
        photos = _photos(options.photos, options.images)
        bare = Bare(*_opened(model, options.backend), photos)
        settings = {"device": "cpu", "backend": options.backend}
        notes: dict[str, float] = dict(bare.notes)
        if not options.soak_only:
            notes["mib_per_extra_model"] = _extra_model(model, Path(folder), settings)
        rows: list[Row] = []
        ratios: dict[str, float | None] = {}
        if not options.soak_only:
            with Served(model, waiting=max(options.clients), **settings) as served:
                rows, ratios = _levels(served, bare, photos, options)
            with Served(model, **settings) as served:
                rows.append(_overload(served, photos, options.seconds))
        if options.soak:
            with Served(model, **settings) as served:
                rows.append(_soak(served, photos, options.soak))
    finish("serving", rows, ratios, options, notes=notes)


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="model directory; default: a random one")
    options.add_argument("--encoder", default="mini", help="of the random model, or ViT-B-32")
    options.add_argument("--photos", type=Path, help="zip of JPEGs; default: noise")
    options.add_argument("--images", type=int, default=64, help="different photos that are sent")
    options.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    options.add_argument("--seconds", type=float, default=10.0, help="of each level in all")
    options.add_argument("--turns", type=int, default=4)
    options.add_argument("--backend", default="torch")
    options.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
    options.add_argument("--soak-only", action="store_true")
    return options.parse_args()


def _opened(model: Path, backend: str) -> tuple[Predictor, Predictor]:
    """With the backend that is served (`torch` means its graph), and with PyTorch as it is.

    What `auto` will choose is not known here: then both are PyTorch as it is.
    """
    eager = Predictor.load(model, device="cpu")
    if backend == AUTO:
        return eager, eager
    name = {EAGER: GRAPH, "onnx": "onnxruntime"}.get(backend, backend)
    try:
        other = open_backend(eager.encoder, name, streams_for("cpu"))
    except Unavailable:
        if name != GRAPH:
            raise
        return eager, eager
    return Predictor.load(model, encoder=eager.encoder, image_backend=other), eager


class Bare:
    """The encoder by itself, as fast as this machine lets it be."""

    def __init__(self, predictor: Predictor, eager: Predictor, photos: Sequence[bytes]) -> None:
        self._predictor = predictor
        self._eager = eager
        self._encode = predictor.image_backend or predictor.encoder.encode_images
        self._photos = photos
        self._cores = torch.get_num_threads()
        images = [decode_image(photo) for photo in photos]
        self._pixels = torch.stack([predictor.encoder.preprocess(i) for i in images])[:_BATCH]
        self._embeddings = predictor.embed(images[:_BATCH])
        self.notes = self._after_the_encoder()

    def one(self, seconds: float) -> float:
        """Median seconds to decode and encode one photo; the better number of threads."""
        return self._quicker(self._decode_and_encode, seconds)

    def _quicker(self, run: Callable[[], object], seconds: float) -> float:
        found = []
        for threads in {1, self._cores}:
            torch.set_num_threads(threads)
            found.append(statistics.median(_repeated(run, seconds / 2)))
        return min(found)

    def rate(self, seconds: float) -> float:
        """Images per second of passes over 32, by one stream of all cores or a stream per core."""
        torch.set_num_threads(self._cores)
        whole = len(self._pixels) / statistics.median(
            _repeated(lambda: self._encode(self._pixels), seconds / 2)
        )
        return max(whole, self._streams(seconds / 2))

    def whole(self, seconds: float) -> float:
        """Photos per second where 32 at a time are decoded and embedded, a stream per core."""
        until = time.perf_counter() + seconds
        start = time.perf_counter()

        def rounds(_: int) -> int:
            torch.set_num_threads(1)
            done = 0
            while time.perf_counter() < until:
                images = [decode_image(photo) for photo in self._photos[:_BATCH]]
                done += len(self._predictor.embed(images))
            return done

        with ThreadPoolExecutor(self._cores) as pool:
            done = sum(pool.map(rounds, range(self._cores)))
        return done / (time.perf_counter() - start)

    def _streams(self, seconds: float) -> float:
        until = time.perf_counter() + seconds
        start = time.perf_counter()

        def passes(_: int) -> int:
            torch.set_num_threads(1)
            done = 0
            while time.perf_counter() < until:
                self._encode(self._pixels)
                done += len(self._pixels)
            return done

        with ThreadPoolExecutor(self._cores) as pool:
            done = sum(pool.map(passes, range(self._cores)))
        return done / (time.perf_counter() - start)

    def _decode_and_encode(self) -> None:
        self._predictor.embed([decode_image(self._photos[0])])

    def _one_eager(self) -> None:
        self._eager.embed([decode_image(self._photos[0])])

    def _after_the_encoder(self) -> dict[str, float]:
        """What codes, logits and exact accounts cost, as a share of the encoder's time."""
        encode = self._encode
        notes = {"bare_eager_ms": round(1000 * self._quicker(self._one_eager, 2.0), 2)}
        torch.set_num_threads(1)  # processor time by processor time
        for batch in (1, _BATCH):
            pixels, rows = self._pixels[:batch], self._embeddings[:batch]

            def rest(rows: torch.Tensor = rows) -> None:
                self._predictor.predict_codes(self._predictor.encode(rows))

            shares = [
                min(_repeated(rest, 0.2)) / min(_repeated(lambda p=pixels: encode(p), 0.5))
                for _ in range(3)
            ]
            notes[f"after_the_encoder_share_batch_{batch}"] = round(statistics.median(shares), 4)
        return notes


def _repeated(run: Callable[[], object], seconds: float) -> list[float]:
    times: list[float] = []
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _levels(
    served: Served, bare: Bare, photos: Sequence[bytes], options: argparse.Namespace
) -> tuple[list[Row], dict[str, float | None]]:
    levels = {clients: Level() for clients in options.clients}
    latency: list[float] = []
    throughput: dict[int, list[float]] = {clients: [] for clients in options.clients}
    ones, rates, wholes = [], [], []
    part = options.seconds / options.turns
    served.load(photos, 8, 1.0)
    for _ in range(options.turns):
        for clients, level in levels.items():
            if clients == 1:
                ones.append(bare.one(part))
            else:
                rates.append(bare.rate(part))
                wholes.append(bare.whole(part))
            found = served.load(photos, clients, part)
            level.add(found)
            if clients == 1:
                latency.append(found.quantile(0.5) / ones[-1])
            else:
                throughput[clients].append(found.rate / rates[-1])
    rows = [_row(f"{clients} clients", level) for clients, level in levels.items()]
    rows.append(
        {"what": "bare decode + encode, 1", "p50_ms": 1000 * statistics.median(ones or [0])}
    )
    rows.append({"what": "bare pass, 32", "images_per_s": statistics.median(rates or [0])})
    rows.append(
        {"what": "bare decode + pass, 32", "images_per_s": statistics.median(wholes or [0])}
    )
    ratios: dict[str, float | None] = {}
    if latency:
        ratios["p50 at 1 client / bare"] = statistics.median(latency)
    for clients, found_rates in throughput.items():
        if found_rates:
            ratios[f"throughput at {clients} clients / bare"] = statistics.median(found_rates)
    if wholes:
        share = statistics.median(wholes) / statistics.median(rates)
        ratios["decode + pass without HTTP / bare"] = share
    return rows, ratios


def _row(what: str, level: Level) -> Row:
    return {
        "what": what,
        "images_per_s": level.rate,
        "p50_ms": 1000 * level.quantile(0.5),
        "p99_ms": 1000 * level.quantile(0.99),
        "cpu_ms_per_image": 1000 * level.cpu_seconds / max(1, len(level.latencies)),
        "refused_503": level.statuses[503],
        "failures": level.failures,
    }


def _overload(served: Served, photos: Sequence[bytes], seconds: float) -> Row:
    """Four times as many clients as the service admits by default."""
    level, health = served.load_and_probe(photos, 136, seconds)
    return _row("136 clients, default queue", level) | {
        "healthz_p50_ms": 1000 * health.quantile(0.5),
        "healthz_p99_ms": 1000 * health.quantile(0.99),
        "healthz_max_ms": 1000 * health.quantile(1.0),
    }


def _extra_model(model: Path, folder: Path, settings: dict[str, Any]) -> float:
    """Memory of a further model of the same encoder: of four at once, less that of one."""
    resident = []
    for number in (1, 4):
        root = folder / f"models-{number}"
        for copy in range(number):
            shutil.copytree(model, root / f"m{copy}", ignore=shutil.ignore_patterns("embeddings"))
        with Served(root, **settings) as served:
            resident.append(served.resident_mib)
    return round((resident[1] - resident[0]) / 3, 1)


def _soak(served: Served, photos: Sequence[bytes], seconds: float) -> Row:
    """32 clients for a long time; the slope is of the second half, when all pools are full."""
    served.load(photos, 32, 10.0)
    memory = [served.resident_mib]
    whole = Level()
    for _ in range(max(1, round(seconds / _EVERY))):
        part = served.load(photos, 32, min(_EVERY, seconds))
        whole.add(part)
        memory.append(served.resident_mib)
        print(
            f"{whole.seconds:7.0f} s {memory[-1]:9,.1f} MiB {part.rate:7.1f} photos/s", flush=True
        )
    row = _row(f"32 clients for {seconds:.0f} s", whole)
    row |= {"rss_before_mib": memory[0], "rss_after_mib": memory[-1]}
    row["rss_mib"] = [round(value, 1) for value in memory]
    late = memory[len(memory) // 2 :]
    if len(late) > 2:
        row["mib_per_minute"] = (
            60 / _EVERY * statistics.linear_regression(range(len(late)), late)[0]
        )
    return row


def _photos(path: Path | None, number: int) -> list[bytes]:
    if path is None:
        import io

        import numpy as np
        from PIL import Image

        draw = np.random.default_rng(0)
        files = []
        for _ in range(number):
            file = io.BytesIO()
            pixels = draw.integers(0, 256, (240, 320, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, "JPEG", quality=60)
            files.append(file.getvalue())
        return files
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".jpg")]
        chosen = names[:: max(1, len(names) // number)][:number]
        return [archive.read(name) for name in chosen]


if __name__ == "__main__":
    main()
