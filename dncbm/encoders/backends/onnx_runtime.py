"""ONNX Runtime on the CPU, in float32 or with weights in 8 bits."""

import importlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.encoders.backends.base import ImageBackend
from dncbm.encoders.backends.graphs import cached_graph, exported_tower, quiet_export
from dncbm.encoders.clip import Encoder
from dncbm.encoders.streams import Streams

onnxruntime: Any = importlib.import_module("onnxruntime")  # optional
_GRAPH = "model.onnx"
_PIXELS = "pixels"


def open_float32(encoder: Encoder, streams: Streams) -> ImageBackend:
    """The exported graph in float32."""
    return _session(_float32_graph(encoder) / _GRAPH, streams)


def open_int8(encoder: Encoder, streams: Streams) -> ImageBackend:
    """The graph with 8-bit weights, activations quantised as they come; a loss that shows."""
    quantization = importlib.import_module("onnxruntime.quantization")
    exact = _float32_graph(encoder)

    def write(folder: Path) -> None:
        with quiet_export():
            quantization.quantize_dynamic(
                exact / _GRAPH,
                folder / _GRAPH,
                weight_type=quantization.QuantType.QInt8,
                # convolutions have no 8-bit kernel for such weights on the CPU
                op_types_to_quantize=["MatMul", "Gemm"],
            )

    kind = f"onnx-int8-torch{torch.__version__}-{onnxruntime.__version__}"
    return _session(cached_graph(encoder, kind, write) / _GRAPH, streams)


def _float32_graph(encoder: Encoder) -> Path:
    def write(folder: Path) -> None:
        with quiet_export():
            program = torch.onnx.export(
                exported_tower(encoder),
                input_names=[_PIXELS],
                output_names=["embeddings"],
                dynamo=True,
                verbose=False,
            )
            assert program is not None  # it is None only when a file is asked for
            program.save(folder / _GRAPH)

    return cached_graph(encoder, f"onnx-torch{torch.__version__}", write)


def _session(graph: Path, streams: Streams) -> ImageBackend:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = streams.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def embed(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        (rows,) = session.run(None, {_PIXELS: pixels.numpy()})
        return torch.from_numpy(rows)

    return embed
