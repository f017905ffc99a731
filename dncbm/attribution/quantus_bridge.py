"""Our attributions as Quantus takes them, and our mass ratio as Quantus calls its metrics.

    quantus.MPRT(...)(model, x, y, explain_func=explain_func,
                      explain_func_kwargs={"method": "grad_cam", "layer": "layer4"})
    MassRatio()(model, x, y, s_batch=masks, explain_func=explain_func)

Quantus (`pip install dncbm[quantus]`) is not needed to import this module; arrays are NumPy on both
sides. Its own AttributionLocalisation takes magnitudes first and normalises maps by default, which
scores what speaks against the target as well; with `abs=False, normalise=False,
positive_attributions=True` it is the mass ratio.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from dncbm.attribution.catalogue import method_named
from dncbm.attribution.chain import Chain
from dncbm.attribution.layers import Layer
from dncbm.attribution.scores import mass_ratio
from dncbm.errors import InvalidInput

SIGNED = Chain(positive=False)
"""Maps as the method gives them; `explain_func` brings them to the size of the image."""


def explain_func(  # noqa: PLR0913 - as Quantus calls it
    model: nn.Module,
    inputs: np.ndarray | torch.Tensor,
    targets: np.ndarray | torch.Tensor | Sequence[int],
    *,
    method: str = "input_x_gradient",
    layer: Layer = None,
    chain: Chain = SIGNED,
    device: str | torch.device | None = None,
    options: dict[str, Any] | None = None,
    **_others: Any,
) -> np.ndarray:
    """Maps (n, 1, h, w) of one target per image, at the size of the images.

    Args:
        model: in eval mode.
        inputs: (n, c, h, w).
        targets: one class per image.
        method: a name of the catalogue.
        layer: explained layer, see `layers.Layer`; its maps are brought to the images.
        chain: post-processing; a size of its own is ignored.
        device: where the images are put; that of the model by default.
        options: of the method.
        _others: whatever else Quantus hands on; unused.

    Raises:
        UnknownName: no such method or layer.
        InvalidInput: see the method.
    """
    first = next(model.parameters(), torch.zeros(0))
    images = torch.as_tensor(inputs).to(device=device or first.device, dtype=first.dtype)
    classes = torch.as_tensor(targets).to(device=images.device, dtype=torch.int64).flatten()
    found = method_named(method).function(model, images, classes, layer=layer, **(options or {}))
    size = (images.shape[-2], images.shape[-1])
    maps: np.ndarray = replace(chain, size=size)(found).cpu().numpy()
    return maps


class MassRatio:
    """Share of each map's positive part inside its mask (EPG), called as a Quantus metric is.

    Args:
        undefined: score of maps without positive values, see `scores.mass_ratio`.
    """

    def __init__(self, *, undefined: str = "zero") -> None:
        self.undefined = undefined

    def __call__(  # noqa: PLR0913 - as Quantus calls its metrics
        self,
        model: nn.Module | None,
        x_batch: np.ndarray,
        y_batch: np.ndarray,
        a_batch: np.ndarray | None = None,
        s_batch: np.ndarray | None = None,
        explain_func: Callable[..., np.ndarray] = explain_func,
        explain_func_kwargs: dict[str, Any] | None = None,
        device: str | None = None,
        batch_size: int = 64,
        **_others: Any,
    ) -> list[float]:
        """One score per image, in [0, 1].

        Args:
            model: what is explained; not used where maps are given.
            x_batch: images (n, c, h, w).
            y_batch: one class per image.
            a_batch: maps (n, 1, h, w) or (n, h, w); by default those of `explain_func`.
            s_batch: masks of the same shape; what is not 0 is inside.
            explain_func: gives the maps.
            explain_func_kwargs: handed to it.
            device: handed to it.
            batch_size: images that are explained at once.
            _others: whatever else callers of Quantus metrics hand on; unused.

        Raises:
            InvalidInput: no masks, or masks and maps that do not fit together.
        """
        if s_batch is None:
            raise InvalidInput("There are no masks (s_batch); the mass ratio needs one per image.")
        if a_batch is None:
            options = {"device": device, **(explain_func_kwargs or {})}
            parts = [slice(i, i + batch_size) for i in range(0, len(x_batch), batch_size)]
            a_batch = np.concatenate([
                explain_func(model=model, inputs=x_batch[p], targets=y_batch[p], **options)
                for p in parts
            ])  # fmt: skip
        maps, masks = _one_channel(a_batch, "Maps"), _one_channel(s_batch, "Masks") != 0
        if maps.shape != masks.shape:
            raise InvalidInput(
                f"Maps of shape {maps.shape} and masks of shape {masks.shape} do not fit; the rule "
                "is one mask per map, of its size."
            )
        scores = mass_ratio(
            torch.from_numpy(maps), torch.from_numpy(masks), undefined=self.undefined
        )
        return [float(score) for score in scores[:, 0]]


def _one_channel(values: np.ndarray, what: str) -> np.ndarray:
    """(n, 1, h, w)."""
    values = np.asarray(values)
    values = values[:, None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[1] != 1:
        raise InvalidInput(
            f"{what} have shape {values.shape}; the rule is (n, 1, h, w) or (n, h, w)."
        )
    return np.ascontiguousarray(values)
