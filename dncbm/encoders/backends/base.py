"""The one thing that every backend is, and opening one by its name."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from dncbm.encoders.clip import Encoder
from dncbm.encoders.streams import Streams
from dncbm.errors import InvalidInput, Unavailable, UnknownName
from dncbm.training.precision import native_bfloat16

EAGER = "torch"
"""The encoder itself, in its own precision: what every other backend is compared with."""
GRAPH = "torch-graph"
"""The same in one call that needs no interpreter."""
AUTO = "auto"


@runtime_checkable
class ImageBackend(Protocol):
    """Preprocessed images to raw embeddings, float32 on the CPU.

    May be called from as many threads at once as it was opened with streams.
    """

    def __call__(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embeddings of one batch."""
        ...


@dataclass(frozen=True, slots=True)
class _Kind:
    """A backend that can be had by name."""

    module: str
    """Where its `open_*` functions are; imported only when it is asked for."""
    opener: str
    packages: tuple[str, ...] = ()
    """What must be installed besides dncbm."""
    extra: str = ""
    is_bfloat16: bool = False
    is_exact_enough: bool = True
    """Whether `auto` may try it."""


_ROOM = "dncbm.encoders.backends"
_ONNX = ("onnxruntime", "onnx", "onnxscript")
BACKENDS: Mapping[str, _Kind] = {
    EAGER: _Kind(f"{_ROOM}.pytorch", "open_eager"),
    GRAPH: _Kind(f"{_ROOM}.pytorch", "open_graph"),
    "torch-bf16": _Kind(f"{_ROOM}.pytorch", "open_bfloat16", is_bfloat16=True),
    "onnxruntime": _Kind(f"{_ROOM}.onnx_runtime", "open_float32", _ONNX, "onnx"),
    "onnxruntime-int8": _Kind(
        f"{_ROOM}.onnx_runtime", "open_int8", _ONNX, "onnx", is_exact_enough=False
    ),
    "openvino": _Kind(f"{_ROOM}.open_vino", "open_float32", ("openvino",), "openvino"),
    "openvino-bf16": _Kind(
        f"{_ROOM}.open_vino", "open_bfloat16", ("openvino",), "openvino", is_bfloat16=True
    ),
}
AUTO_NAMES = tuple(name for name, kind in BACKENDS.items() if kind.is_exact_enough)
"""What `auto` chooses among."""


def check_backend(name: str) -> None:
    """Refuse a name that no backend has.

    Raises:
        UnknownName: with the known names.
    """
    if name != AUTO and name not in BACKENDS:
        raise UnknownName("backend", name, [AUTO, *BACKENDS])


def open_backend(encoder: Encoder, name: str, streams: Streams) -> ImageBackend:
    """The backend `name` for the image tower of `encoder`.

    Raises:
        UnknownName: no such backend.
        InvalidInput: another backend than `torch` for a GPU or for a lower precision.
        Unavailable: a package is missing, or bf16 on a processor that only emulates it.
    """
    if name not in BACKENDS:
        raise UnknownName("backend", name, [AUTO, *BACKENDS])
    kind = BACKENDS[name]
    if name != EAGER and not is_replaceable(encoder):
        raise InvalidInput(
            f"The backend {name!r} replaces an encoder that runs on the CPU in fp32; this one "
            f"runs on {encoder.device} in {encoder.precision}. Use --device cpu --precision fp32, "
            f"or the backend {EAGER!r}."
        )
    if kind.is_bfloat16 and not native_bfloat16(encoder.device):
        raise Unavailable(
            f"The backend {name!r} needs a processor that multiplies bf16 itself, which this one "
            f"does not: it would be slower than {EAGER!r}. Use --backend auto."
        )
    _require_packages(name, kind)
    opener: Callable[[Encoder, Streams], ImageBackend] = getattr(
        importlib.import_module(kind.module), kind.opener
    )
    return opener(encoder, streams)


def is_replaceable(encoder: Encoder) -> bool:
    """Whether other backends stand for this encoder: on the CPU, in float32."""
    return encoder.device.startswith("cpu") and encoder.precision == "fp32"


def versions_of(name: str) -> dict[str, str]:
    """Versions of the packages that compute this backend's embeddings."""
    packages = BACKENDS[name].packages[:1] or ("torch",)
    return {package: version(package) for package in packages}


def _require_packages(name: str, kind: _Kind) -> None:
    for package in kind.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise Unavailable(
                f"The backend {name!r} needs the package {package}: pip install "
                f"'dncbm[{kind.extra}]', or use --backend auto."
            ) from error
