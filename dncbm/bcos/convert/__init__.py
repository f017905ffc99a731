"""B-cosification: a pre-trained network as a B-cos network, in one call.

    convert(torchvision.models.resnet18(weights="DEFAULT").eval())
    convert_clip(open_clip.create_model("RN50", pretrained="openai").eval(), bias="decay")

See `options.py` for the choices, `rules.py` for layers of your own, `check.py` for the trial run.
"""

from dncbm.bcos.convert.conversion import convert, convert_clip
from dncbm.bcos.convert.handles import biases, clamp_exponents, exponents, load_bcosified, set_b
from dncbm.bcos.convert.options import EXACT, ConvertOptions
from dncbm.bcos.convert.rules import register_converter

__all__ = [
    "EXACT",
    "ConvertOptions",
    "biases",
    "clamp_exponents",
    "convert",
    "convert_clip",
    "exponents",
    "load_bcosified",
    "register_converter",
    "set_b",
]
