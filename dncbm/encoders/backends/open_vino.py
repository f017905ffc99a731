"""OpenVINO on the CPU, in float32 or with products in bfloat16."""

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

openvino: Any = importlib.import_module("openvino")  # optional
_GRAPH = "model.xml"


def open_float32(encoder: Encoder, streams: Streams) -> ImageBackend:
    """The graph in float32."""
    return _open(encoder, "f32", streams)


def open_bfloat16(encoder: Encoder, streams: Streams) -> ImageBackend:
    """The graph with bfloat16 where OpenVINO finds it harmless."""
    return _open(encoder, "bf16", streams)


# The one core of this process. Each core gives the thread that first uses it a signal stack of its
# own, and takes it away when it ends: of two that overlap, the later one puts back the stack that
# the earlier one has freed, and the next signal (a decoder that ends, say) kills the process.
_core = openvino.Core()


def _open(encoder: Encoder, precision: str, streams: Streams) -> ImageBackend:
    def write(folder: Path) -> None:
        with quiet_export():
            model = openvino.convert_model(exported_tower(encoder))
        model.reshape([-1, 3, *encoder.image_size])
        openvino.save_model(model, folder / _GRAPH, compress_to_fp16=False)

    kind = f"openvino-torch{torch.__version__}-{openvino.__version__.split('-')[0]}"
    graph = cached_graph(encoder, kind, write) / _GRAPH
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": streams.count,
        "INFERENCE_NUM_THREADS": streams.cores,
        # decoders need the cores too: the system shall move threads between them
        "ENABLE_CPU_PINNING": False,
    }
    compiled = _core.compile_model(graph, "CPU", settings)

    def embed(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        # a request of its own per call: requests are not safe to share between threads
        found = compiled.create_infer_request().infer([pixels.numpy()], share_inputs=True)
        return torch.from_numpy(found[0].copy())

    return embed
