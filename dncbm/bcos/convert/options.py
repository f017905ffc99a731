"""The design choices of B-cosification (Arya et al. 2024), each a named option.

The defaults are what the authors shipped: B = 2 from the start, no bias, weights as they are, ReLU
kept, batch norms uncentred, average pooling, the classifier before the global pooling.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from dncbm.errors import InvalidInput, UnknownName


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How a network becomes its B-cos form.

    Raises:
        InvalidInput: B below 1.
        UnknownName: a value that an option does not have.
    """

    b: float = 2.0
    """Exponent B ≥ 1 of each B-cos layer; 1 is linear."""
    b_mode: Literal["fixed", "annealed", "learnable"] = "fixed"
    """`fixed`: B is `b`. `annealed`: it starts at 1 and the trainer raises it with `set_b` to `b`.
    `learnable`: a parameter of each layer that starts at `b`; keep it at 1 or above."""
    bias: Literal["drop", "keep", "decay"] = "drop"
    """`drop` them, `keep` them, or keep them for the trainer to `decay` (`biases` lists them).
    Class and register tokens of a transformer always stay: it reads its answer there."""
    norm: Literal["uncentred", "uncentred-plain", "centred"] = "uncentred"
    """Batch norms. `uncentred`: the running mean moves into the bias, so that the function is the
    same until biases are dropped. `uncentred-plain`: the mean is forgotten. `centred`: the mean
    stays and is reported as a bias; explanations need eval mode. Layer and group norms are linear
    once their variance is held, and stay."""
    activation: Literal["keep", "identity"] = "keep"
    """`keep`: ReLU is piecewise linear; others become x times a gate that explanations hold.
    `identity`: none, since B-cos layers are not linear themselves."""
    pool: Literal["avg", "keep"] = "avg"
    """Max pooling becomes average pooling, or stays (its routing is piecewise linear)."""
    antialiased: bool = False
    """Strides of 2 whose windows overlap unevenly (odd kernels) are taken after a low-pass, against
    grids in explanations. Not the same function any more; training takes up the difference. A
    kernel above 1 then costs four times as much."""
    head_before_pool: bool | None = None
    """The last linear layer at each place before the global average, which at B = 1 is the same.
    None: where only dropout lies between the two. True: there, or an error."""
    position: Literal["recipe", "keep", "drop"] = "recipe"
    """Positional embeddings. `recipe`: dropped in CLIP's attention pooling, kept elsewhere."""
    normalize_weights: bool = False
    """Weights as unit rows, as in networks from scratch; or as they were trained."""
    logit_bias: float | None = None
    """Added to every output; `layers.logit_bias` gives that of a classifier with BCE."""
    check: bool = True
    """Run the result once on noise, see `check.py`. Costs a few passes of a 64-pixel image."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.b) and self.b >= 1):
            raise InvalidInput(f"B is {self.b}; the rule is a number of at least 1. 2 is usual.")
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, str) and value not in get_args(hint):
                raise UnknownName(f"value of {name}", value, get_args(hint))

    @property
    def biased(self) -> bool:
        """Whether biases stay."""
        return self.bias != "drop"


EXACT = ConvertOptions(b=1.0, bias="keep", pool="keep", position="keep")
"""Options under which the converted network is the same function as the original."""
