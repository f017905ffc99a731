"""Every backend gives the encoder's own embeddings, as exactly as it promises."""

import importlib.util
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from dncbm.encoders.backends import base, graphs
from dncbm.encoders.backends.base import BACKENDS, open_backend, versions_of
from dncbm.encoders.calibrate import smallest_cosine
from dncbm.encoders.clip import Encoder
from dncbm.encoders.shards import EmbedConfig
from dncbm.encoders.streams import Streams, streamed
from dncbm.errors import InvalidInput, Unavailable, UnknownName
from tests.unit.encoders.tiny import tiny_encoder

pytestmark = pytest.mark.filterwarnings("ignore")  # exporters speak of their own deprecations
ONE = Streams(1, 1)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("DNCBM_CACHE", str(tmp_path_factory.getbasetemp() / "graphs"))


def _open(encoder: Encoder, name: str, streams: Streams = ONE) -> base.ImageBackend:
    try:
        return open_backend(encoder, name, streams)
    except Unavailable as error:
        if name == "torch":  # nothing may be missing for this one
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("torch", 1 - 1e-9),
        ("torch-graph", 1 - 1e-6),
        ("torch-bf16", 0.999),
        ("onnxruntime", 1 - 1e-6),
        ("onnxruntime-int8", 0.98),
        ("openvino", 1 - 1e-6),
        ("openvino-bf16", 0.999),
    ],
)
def test_a_backend_agrees_with_the_encoder_at_any_batch_size(
    encoder: Encoder, name: str, least: float
) -> None:
    backend = _open(encoder, name, Streams(2, 1))
    batches = [torch.randn(count, 3, 16, 16) for count in (1, 2, 5, 5, 1)]
    found = list(streamed(backend, batches, Streams(2, 1)))
    for batch, rows in zip(batches, found, strict=True):
        assert rows.dtype == torch.float32
        assert rows.shape == (len(batch), encoder.embed_dim)
        assert smallest_cosine(rows, encoder.encode_images(batch)) >= least
    assert all(versions_of(name).values())


_SIGNAL_AFTER_TWO = """
import gc, os, pathlib, signal, sys
from dncbm.encoders.backends.base import open_backend
from dncbm.encoders.streams import Streams
from tests.unit.encoders.tiny import tiny_encoder

encoder = tiny_encoder(pathlib.Path(sys.argv[1]))
first = open_backend(encoder, "openvino", Streams(1, 1))
second = open_backend(encoder, "openvino", Streams(2, 1))
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("alive"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_are_survived_after_openvino_has_gone(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is optional")
    command = [sys.executable, "-c", _SIGNAL_AFTER_TWO, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_a_backend_that_is_not_installed_says_how_to_get_it(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(Unavailable, match=r"needs the package openvino: .*'dncbm\[openvino\]'"):
        open_backend(encoder, "openvino", ONE)


def test_bfloat16_is_refused_where_it_is_emulated(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "native_bfloat16", lambda device: False)
    with pytest.raises(Unavailable, match="'torch-bf16' needs a processor that multiplies bf16"):
        open_backend(encoder, "torch-bf16", ONE)


def test_backends_stand_for_float32_on_the_cpu_alone(tmp_path: Path) -> None:
    half = tiny_encoder(tmp_path, precision="fp16")
    with pytest.raises(InvalidInput, match="runs on the CPU in fp32; this one runs on cpu in fp16"):
        open_backend(half, "torch-bf16", ONE)
    assert open_backend(half, "torch", ONE) == half.encode_images


class _Python(torch.nn.Module):
    """A tower that does something in Python, which a graph cannot."""

    def __init__(self, tower: torch.nn.Module, how: str) -> None:
        super().__init__()
        self.tower, self.how = tower, how

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.how == "fails":
            raise ArithmeticError("not in a graph")
        rows = self.tower(pixels)
        if self.how == "counts":
            return rows.flip(1) if len(pixels) % 2 else rows
        return rows / (len(pixels) if self.how == "divides" else float(pixels.abs().max()))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("counts", "gives other embeddings than the tower"),
        ("divides", "gives other embeddings than the tower"),  # of the same direction
        ("scales", "gives other embeddings than the tower"),
        ("fails", "ArithmeticError: not in a graph"),
    ],
)
def test_a_tower_that_no_graph_stands_for(encoder: Encoder, how: str, told: str) -> None:
    odd = encoder.with_image_tower(
        _Python(encoder.image_tower(), how), spec="odd", fingerprint="0" * 64
    )
    with pytest.raises(Unavailable, match=told):
        open_backend(odd, "torch-graph", ONE)


def test_a_graph_keeps_to_itself(encoder: Encoder) -> None:
    """No deprecation is told, and an empty batch has no rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = open_backend(encoder, "torch-graph", ONE)
    assert graph(torch.zeros(0, 3, 16, 16)).shape == (0, encoder.embed_dim)


def test_an_unknown_backend_is_told_with_its_neighbours(encoder: Encoder) -> None:
    with pytest.raises(UnknownName, match="openvino"):
        open_backend(encoder, "openvin", ONE)
    with pytest.raises(UnknownName, match="auto"):
        EmbedConfig(backend="aut")
    assert EmbedConfig(backend="auto").is_auto
    assert list(BACKENDS)[0] == "torch"


def test_a_graph_is_written_once_and_again_when_damaged(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNCBM_CACHE", str(tmp_path))
    calls = []

    def write(folder: Path) -> None:
        calls.append(folder)
        (folder / "model.bin").write_bytes(b"weights")

    folder = graphs.cached_graph(encoder, "kind-1", write)
    assert folder == tmp_path / "graphs" / f"{encoder.fingerprint[:32]}-kind-1"
    assert graphs.cached_graph(encoder, "kind-1", write) == folder
    assert len(calls) == 1
    (folder / "model.bin").write_bytes(b"wrights")
    graphs.cached_graph(encoder, "kind-1", write)
    assert (folder / "model.bin").read_bytes() == b"weights"
    graphs.cached_graph(encoder, "kind-2", write)
    assert len(calls) == 3
    assert json.loads((folder / "graph.json").read_text()).keys() == {"model.bin"}


def test_graphs_lie_beside_the_cache_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DNCBM_CACHE")
    monkeypatch.setattr(graphs, "HF_HOME", "/home/someone/.cache/huggingface")
    assert graphs.graph_folder() == Path("/home/someone/.cache/dncbm/graphs")


def test_the_exported_tower_takes_any_number_of_images(encoder: Encoder) -> None:
    program = graphs.exported_tower(encoder).module()
    pixels = torch.randn(7, 3, 16, 16)
    np.testing.assert_allclose(program(pixels), encoder.encode_images(pixels), atol=1e-5)


def test_optional_packages_are_not_imported_by_themselves() -> None:
    missing = [n for n in ("onnxruntime", "openvino") if importlib.util.find_spec(n) is None]
    for name, kind in BACKENDS.items():
        assert bool(kind.packages) == name.startswith(("onnx", "openvino")), missing
