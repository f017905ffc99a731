"""Random views of photos for contrastive training, computed on whole batches on the device.

SimCLR's recipe (Chen et al. 2020, appendix A): a crop, a turn, colour jitter (brightness, contrast,
saturation, hue in an order of the batch's own), grey, blur. All draws come from one stream before
anything is computed, so that a resumed run, or one that computes in chunks, sees the same views.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from dncbm.data.views import Boxes, Views
from dncbm.errors import InvalidInput

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), as Pillow and torchvision have them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """What happens to each of n photos."""

    boxes: Boxes
    jitter: Float[Tensor, "n 4"]
    """Factors of brightness, contrast and saturation, and the shift of the hue in turns; 1, 1, 1
    and 0 where a photo keeps its colours."""
    order: tuple[int, ...]
    """Of the four, one for the batch."""
    grey: Float[Tensor, " n"]
    """1 where a photo turns grey, else 0."""
    sigma: Float[Tensor, " n"]
    """Width of the blur in pixels; 0: none."""

    def __getitem__(self, rows: slice) -> "Draws":
        """Those of some photos."""
        parts = {
            item.name: getattr(self, item.name)[rows]
            for item in fields(self)
            if item.name != "order"
        }
        return replace(self, **parts)

    def to(self, device: torch.device) -> "Draws":
        """On a device."""
        names = ("jitter", "grey", "sigma")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How random views are made; the defaults are SimCLR's with the jitter of the papers on CIFAR.

    Crops of `views` are turned or not as it says; CIFAR's smallest share is 0.1, ImageNet's 0.08.
    """

    views: Views
    brightness: float = 0.4
    """Factors from 1 − x to 1 + x."""
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    """Shift from −x to x of a full turn."""
    jitter: float = 0.8
    """Share of photos whose colours change."""
    grey: float = 0.2
    """Share of photos that turn grey."""
    blur: float = 0.0
    """Share of photos that are blurred: 0.5 for ImageNet, none for CIFAR."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Least and largest width of the blur, in pixels."""

    def __post_init__(self) -> None:
        for name in ("jitter", "grey", "blur", "brightness", "contrast", "saturation"):
            _require_within(name, getattr(self, name), 1.0)
        _require_within("hue", self.hue, 0.5)
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise InvalidInput(f"sigma is {self.sigma}; the rule is two widths above 0 in order.")

    @property
    def kernel(self) -> int:
        """Pixels of the blur's kernel: a tenth of the view, odd, at least 3."""
        return max(3, 2 * (self.views.size // 20) + 1)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """What happens to so many photos; always as many draws, whatever they are."""
        boxes = self.views.draw(count, generator)
        u = torch.rand(8, count, generator=generator)
        strengths = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue])
        start = torch.tensor([1.0, 1.0, 1.0, 0.0])
        moved = start + strengths * (2 * u[:4].T - 1)
        order = torch.randperm(4, generator=generator)
        low, high = self.sigma
        width = low + (high - low) * u[7]
        return Draws(
            boxes=boxes,
            jitter=torch.where((u[4] < self.jitter)[:, None], moved, start),
            order=tuple(order.tolist()),
            grey=(u[5] < self.grey).float(),
            sigma=torch.where(u[6] < self.blur, width, torch.zeros(())),
        )

    def apply(
        self, photos: UInt8[Tensor, "n 3 h w"], draws: Draws
    ) -> Float[Tensor, "n 3 size size"]:
        """Normalised views of the photos."""
        draws = draws.to(photos.device)
        plain = replace(self.views, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        found = plain.cropped(photos, draws.boxes)
        for place in draws.order:
            found = _OPERATIONS[place](found, draws.jitter[:, place])
        found = saturated(found, 1 - draws.grey)
        if bool((draws.sigma > 0).any()):
            found = blurred(found, draws.sigma, self.kernel)
        mean = torch.tensor(self.views.mean, device=found.device)[:, None, None]
        std = torch.tensor(self.views.std, device=found.device)[:, None, None]
        normalised = (found - mean) / std
        return normalised.contiguous(memory_format=torch.channels_last)


def brightened(images: Float[Tensor, "n 3 h w"], factor: Float[Tensor, " n"]) -> Tensor:
    """Colours times a factor, within [0, 1]."""
    return (images * factor[:, None, None, None]).clamp(0, 1)


def contrasted(images: Float[Tensor, "n 3 h w"], factor: Float[Tensor, " n"]) -> Tensor:
    """Away from (or towards) the photo's mean grey, within [0, 1]."""
    mean = _grey(images).mean((2, 3), keepdim=True)
    return _blend(images, mean, factor)


def saturated(images: Float[Tensor, "n 3 h w"], factor: Float[Tensor, " n"]) -> Tensor:
    """Away from (or towards) each pixel's grey, within [0, 1]; a factor of 0 is grey."""
    return _blend(images, _grey(images), factor)


def hued(images: Float[Tensor, "n 3 h w"], turns: Float[Tensor, " n"]) -> Tensor:
    """Hue turned, in HSV: lightest and darkest channel of each pixel keep their values."""
    # Of each channel: how far it lies along the way red-yellow-green-cyan-blue-magenta-red.
    top, bottom = images.amax(1), images.amin(1)
    span = top - bottom
    r, g, b = images.unbind(1)
    safe = span.clamp_min(1e-12)
    sixths = torch.where(
        top == r, (g - b) / safe, torch.where(top == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )
    turned = (sixths + 6 * turns[:, None, None]) % 6
    # f(k) = v − s v max(0, min(k, 4 − k, 1)), k = (n + 6 h) mod 6, n = 5, 3, 1 for r, g, b
    place = torch.tensor([5.0, 3.0, 1.0], device=images.device, dtype=images.dtype)
    k = (place[:, None, None] + turned[:, None]) % 6
    fall = torch.minimum(k, 4 - k).clamp(0, 1)
    return top[:, None] - span[:, None] * fall


def blurred(
    images: Float[Tensor, "n 3 h w"], sigma: Float[Tensor, " n"], kernel: int
) -> Float[Tensor, "n 3 h w"]:
    """Gaussian blur of a width of its own per photo, mirrored at borders; 0 leaves it as it is."""
    half = min(kernel // 2, min(images.shape[-2:]) - 1)
    places = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-0.5 * (places / sigma.clamp_min(1e-6)[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    n, channels, height, width = images.shape
    filters = weights.repeat_interleave(channels, 0)
    flat = functional.pad(images, (half, half, half, half), mode="reflect").view(
        1, n * channels, height + 2 * half, width + 2 * half
    )
    flat = functional.conv2d(flat, filters[:, None, :, None], groups=n * channels)
    flat = functional.conv2d(flat, filters[:, None, None, :], groups=n * channels)
    return flat.view(n, channels, height, width)


_OPERATIONS = (brightened, contrasted, saturated, hued)


def _grey(images: Tensor) -> Float[Tensor, "n 1 h w"]:
    luma = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    return (images * luma[:, None, None]).sum(1, keepdim=True)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    weight = factor[:, None, None, None]
    return (weight * images + (1 - weight) * other).clamp(0, 1)


def _require_within(name: str, value: float, most: float) -> None:
    if not 0 <= value <= most or math.isnan(value):
        raise InvalidInput(f"{name} is {value}; the rule is from 0 to {most:g}.")
