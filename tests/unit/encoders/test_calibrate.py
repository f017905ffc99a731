"""`auto` takes the fastest backend that is exact enough, and a job keeps what it began with."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from dncbm.artifacts import read_json
from dncbm.encoders import calibrate
from dncbm.encoders.backends.base import AUTO_NAMES, BACKENDS
from dncbm.encoders.cache import EmbedConfig, _sample
from dncbm.encoders.calibrate import Choice, choice_from, choose_backend, smallest_cosine
from dncbm.encoders.clip import Encoder
from dncbm.encoders.streams import Streams
from dncbm.errors import InvalidInput, Unavailable
from tests.oracles.encoders import smallest_cosine as slow_smallest_cosine
from tests.unit.encoders.memory import Pictures, embed_pictures, file_bytes, is_clean
from tests.unit.encoders.tiny import tiny_encoder

ONE = Streams(1, 1)
Fake = Callable[[torch.Tensor], torch.Tensor]


class _Clock:
    """Time that passes only when a backend computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch, encoder: Encoder):
    """Sets the seconds per image (or those by call) and the error of each backend; others are not
    installed."""
    clock = _Clock()
    monkeypatch.setattr(calibrate, "time", clock)
    table: dict[str, tuple[float, float]] = {}
    opened: list[str] = []

    def opener(encoder: Encoder, name: str, streams: Streams) -> Fake:
        opened.append(name)
        if name not in table:
            raise Unavailable(f"{name} is not installed.")
        seconds, error = table[name]
        calls = count()

        def embed(pixels: torch.Tensor) -> torch.Tensor:
            now = seconds(next(calls)) if callable(seconds) else seconds
            clock.now += now * len(pixels)
            rows = encoder.encode_images(pixels)
            return rows + error * rows.roll(1, dims=1)

        return embed

    monkeypatch.setattr(calibrate, "open_backend", opener)
    monkeypatch.setattr(calibrate, "versions_of", lambda name: {})
    table["opened"] = opened  # type: ignore[assignment]
    return table


def _choose(
    encoder: Encoder, wanted: str = "auto", images: int = 10_000, count: int = 40
) -> Choice:
    return choose_backend(
        encoder,
        wanted,
        lambda: torch.randn(count, 3, 16, 16),
        images=images,
        min_cosine=0.9999,
        streams=ONE,
    )


def test_the_fastest_exact_backend_wins(encoder: Encoder, backends) -> None:
    backends |= {
        "torch": (1.0, 0.0), "torch-bf16": (0.2, 0.5), "openvino": (0.5, 1e-6),
        "onnxruntime": (0.6, 0.0),
    }  # fmt: skip
    found = _choose(encoder)
    assert found.backend == "openvino"
    assert found.reason == "2.00 times as fast as torch"
    assert found.images == 40
    assert found.min_cosine == pytest.approx(1.0)
    assert found.figures["torch-bf16"].refused.startswith("cosine 0.")
    assert found.figures["torch-bf16"].images_per_second == pytest.approx(5.0)
    assert found.figures["openvino-bf16"].refused == "openvino-bf16 is not installed."
    assert choice_from(found.as_dict()) == found


@pytest.mark.parametrize(("disturbed", "winner"), [(1.3, "openvino-bf16"), (1.5, "torch-bf16")])
def test_what_is_close_is_measured_again(
    encoder: Encoder, backends, disturbed: float, winner: str
) -> None:
    # a warm-up and two turns of 3 batches each, while another job runs
    late = lambda call: 0.2 if call >= 7 else 0.25 * disturbed  # noqa: E731
    backends |= {"torch": (1.0, 0.0), "torch-bf16": (0.25, 1e-6), "openvino-bf16": (late, 1e-6)}
    assert _choose(encoder).backend == winner


def test_bf16_that_pays_spares_the_export_of_the_rest(encoder: Encoder, backends) -> None:
    backends |= {"torch": (1.0, 0.0), "torch-bf16": (0.25, 1e-6), "openvino": (0.1, 0.0)}
    assert _choose(encoder).backend == "torch-bf16"
    assert backends["opened"] == ["torch", "torch-bf16", "openvino-bf16"]


@pytest.mark.parametrize("seconds", [0.97, 1.0, 3.0])
def test_pytorch_stays_where_nothing_is_clearly_faster(
    encoder: Encoder, backends, seconds: float
) -> None:
    backends |= {"torch": (1.0, 0.0), "openvino": (seconds, 0.0)}
    found = _choose(encoder)
    assert (found.backend, found.reason) == ("torch", "nothing else is clearly faster")
    assert set(found.figures) == set(AUTO_NAMES)


def test_pytorch_alone_is_enough(encoder: Encoder, backends) -> None:
    backends |= {"torch": (1.0, 0.0)}
    assert _choose(encoder).backend == "torch"


def test_nan_is_not_exact(encoder: Encoder, backends) -> None:
    backends |= {"torch": (1.0, 0.0), "torch-bf16": (0.1, float("nan"))}
    found = _choose(encoder)
    assert found.backend == "torch"
    assert "nan" in found.figures["torch-bf16"].refused


def test_a_short_job_is_not_measured_further(encoder: Encoder, backends) -> None:
    backends |= {"torch": (0.01, 0.0), "openvino": (0.001, 0.0)}
    found = _choose(encoder, images=int(calibrate.WORTH_SECONDS / 0.01) - 1)
    assert found.backend == "torch"
    assert found.reason == "a job of 60 s is too short to try others"
    assert _choose(encoder, images=10_000).backend == "openvino"


def test_a_named_backend_is_taken_and_its_cosine_told(encoder: Encoder, backends) -> None:
    backends |= {"torch": (1.0, 0.0), "onnxruntime-int8": (2.0, 0.1)}
    found = _choose(encoder, "onnxruntime-int8")
    assert (found.backend, found.reason) == ("onnxruntime-int8", "named")
    assert 0.9 < (found.min_cosine or 0.0) < 0.9999
    with pytest.raises(Unavailable, match="openvino is not installed"):
        _choose(encoder, "openvino")


def test_int8_is_never_chosen() -> None:
    assert [name for name in BACKENDS if name not in AUTO_NAMES] == ["onnxruntime-int8"]


def test_without_a_readable_image_nothing_is_measured(encoder: Encoder, backends) -> None:
    backends |= {"torch": (1.0, 0.0), "openvino": (0.1, 0.0)}
    assert _choose(encoder, count=0).backend == "torch"
    assert _choose(encoder, "openvino", count=0).min_cosine is None


def test_lower_precision_keeps_pytorch(tmp_path: Path, backends) -> None:
    found = _choose(tiny_encoder(tmp_path, precision="fp16"))
    assert (found.backend, found.figures) == ("torch", {})


def test_a_runtime_that_fails_does_not_end_the_job(
    encoder: Encoder, backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends |= {"torch": (1.0, 0.0)}
    opener = calibrate.open_backend

    def fails(encoder: Encoder, name: str, streams: Streams) -> Fake:
        if name == "onnxruntime":
            raise RuntimeError("no kernel for Foo\nmore")
        return opener(encoder, name, streams)

    monkeypatch.setattr(calibrate, "open_backend", fails)
    refused = _choose(encoder).figures["onnxruntime"].refused
    assert refused == "RuntimeError: no kernel for Foo"


def test_smallest_cosine_against_the_oracle(rng: np.random.Generator) -> None:
    rows, reference = rng.normal(size=(2, 30, 7)).astype(np.float32)
    found = smallest_cosine(torch.from_numpy(rows), torch.from_numpy(reference))
    assert found == pytest.approx(slow_smallest_cosine(rows, reference), abs=1e-12)


AUTO = EmbedConfig(batch_size=3, num_workers=0, shard_rows=7, backend="auto")


@pytest.fixture
def bf16_wins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A calibration that always ends with torch-bf16, and how often it was held."""
    held: list[str] = []

    def choose(encoder: Encoder, wanted: str, sample: Fake, **_: object) -> Choice:
        held.append(wanted)
        figures = {"torch-bf16": calibrate.Figures(images_per_second=9.0, min_cosine=0.99995)}
        return Choice(backend="torch-bf16", reason="faster", images=3, figures=figures)

    monkeypatch.setattr("dncbm.encoders.cache.choose_backend", choose)
    monkeypatch.setattr("dncbm.encoders.backends.base.native_bfloat16", lambda device: True)
    return held


def test_the_choice_stands_in_the_manifest(
    encoder: Encoder, tmp_path: Path, bf16_wins: list[str]
) -> None:
    found = embed_pictures(Pictures(), encoder, tmp_path / "out", AUTO)
    manifest = found.manifest
    assert manifest.config["backend"] == "torch-bf16"
    assert choice_from(manifest.metrics["backend"]).min_cosine == 0.99995
    exact = embed_pictures(Pictures(), encoder, tmp_path / "exact" / "out")
    assert exact.manifest.config["backend"] == "torch"
    assert exact.manifest.fingerprint != manifest.fingerprint
    assert is_clean(tmp_path / "exact")


def test_the_sample_comes_from_all_over_the_source(encoder: Encoder) -> None:
    source = Pictures(200)
    assert _sample(source, encoder, 5).shape == (5, 3, 16, 16)
    assert sorted(source.reads) == [0, 40, 80, 120, 160]
    few = Pictures(3, broken=(1,))
    assert len(_sample(few, encoder, 64)) == 2


def _dies_at_17(read: int) -> None:
    if read == 17:
        raise KeyboardInterrupt


def test_a_resumed_job_keeps_its_backend(
    encoder: Encoder, tmp_path: Path, bf16_wins: list[str]
) -> None:
    whole = embed_pictures(Pictures(), encoder, tmp_path / "whole", AUTO)
    with pytest.raises(KeyboardInterrupt):
        embed_pictures(Pictures(before=_dies_at_17), encoder, tmp_path / "out", AUTO)
    (work,) = tmp_path.glob(".out.partial-*")
    assert read_json(work / ".backend.json")["backend"] == "torch-bf16"
    assert len(bf16_wins) == 2
    rest = Pictures()
    resumed = embed_pictures(rest, encoder, tmp_path / "out", AUTO)
    assert len(bf16_wins) == 2
    assert sorted(rest.reads) == list(range(14, 20))
    assert file_bytes(resumed.path) == file_bytes(whole.path)
    assert not list(resumed.path.glob(".*"))


def test_a_resumed_job_whose_backend_is_gone_says_so(
    encoder: Encoder, tmp_path: Path, bf16_wins: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed_pictures(Pictures(before=_dies_at_17), encoder, tmp_path / "out", AUTO)
    monkeypatch.setattr("dncbm.encoders.backends.base.native_bfloat16", lambda device: False)
    with pytest.raises(Unavailable, match="were begun with it; with another --backend they begin"):
        embed_pictures(Pictures(), encoder, tmp_path / "out", AUTO)
    assert len(embed_pictures(Pictures(), encoder, tmp_path / "out")) == 18


def test_finished_embeddings_that_auto_accepts_are_kept(
    encoder: Encoder, tmp_path: Path, bf16_wins: list[str]
) -> None:
    first = embed_pictures(Pictures(), encoder, tmp_path / "out", AUTO)
    again = Pictures()
    assert embed_pictures(again, encoder, tmp_path / "out", AUTO).manifest == first.manifest
    assert not again.reads
    stricter = EmbedConfig(
        batch_size=3, num_workers=0, shard_rows=7, backend="auto", min_cosine=0.99999
    )
    embed_pictures(again, encoder, tmp_path / "out", stricter)
    assert again.reads
    exact = embed_pictures(Pictures(), encoder, tmp_path / "exact")
    kept = Pictures()
    assert embed_pictures(kept, encoder, tmp_path / "exact", AUTO).manifest == exact.manifest
    assert not kept.reads


def test_another_backend_by_name_is_another_recipe(
    encoder: Encoder, tmp_path: Path, bf16_wins: list[str]
) -> None:
    embed_pictures(Pictures(), encoder, tmp_path / "out", AUTO)
    other = Pictures()
    found = embed_pictures(other, encoder, tmp_path / "out")
    assert sorted(other.reads) == list(range(20))
    assert found.manifest.config["backend"] == "torch"


def test_the_least_cosine_is_checked() -> None:
    with pytest.raises(InvalidInput, match=r"min_cosine is 1\.5; it must be between 0 and 1"):
        EmbedConfig(min_cosine=1.5)
