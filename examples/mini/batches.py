"""Batches of augmented photos from the cache, all sources mixed in fixed shares."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])  # open_clip's defaults, so that the
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])  # bundled model needs no settings
CIFAR_SIDE = 32
BALANCE = 0.7  # 0 draws photos alike, 1 draws labels alike


@dataclass(frozen=True, slots=True)
class Source:
    """One source's photos with everything that is known about them, row by row."""

    name: str
    pixels: np.ndarray
    aspect: Tensor
    features: Tensor
    logits: Tensor
    labels: list[str]
    captions: list[list[str]]
    keys: list[str]
    train: Tensor
    watch: Tensor
    weights: Tensor


def load_source(cache: Path, name: str) -> Source:
    """Read what prepare.py wrote for one source."""
    rows = json.loads((cache / f"{name}.json").read_text())
    is_train = torch.tensor([row["split"] == "train" for row in rows])
    count = Counter(row["label"] for row in rows)
    return Source(
        name=name,
        pixels=np.load(cache / f"{name}.pixels.npy"),
        aspect=torch.tensor([row["aspect"] for row in rows]),
        features=torch.from_numpy(np.load(cache / f"{name}.features.npy")),
        logits=torch.from_numpy(np.load(cache / f"{name}.logits.npy")),
        labels=[row["label"] for row in rows],
        captions=[row["captions"] for row in rows],
        keys=[row["key"] for row in rows],
        train=is_train.nonzero()[:, 0],
        watch=(~is_train).nonzero()[:, 0],
        weights=torch.tensor([count[row["label"]] ** -BALANCE for row in rows])[is_train],
    )


def draw_rows(source: Source, size: int, draw: torch.Generator) -> Tensor:
    """Training rows ``[size]`` without repetition inside a batch; rare labels come more often."""
    size = min(size, len(source.train))
    return source.train[torch.multinomial(source.weights, size, generator=draw)]


def pixels_of(source: Source, rows: Tensor) -> Tensor:
    """Raw pixels ``[n, 3, side, side]`` in [0, 1]; CIFAR's 32 pixels come doubled, bicubic."""
    pixels = torch.from_numpy(source.pixels[rows.numpy()]).permute(0, 3, 1, 2).float()
    pixels = pixels.contiguous() / 255.0  # channels-last strides would make sampling slow
    if pixels.shape[-1] == CIFAR_SIDE:
        pixels = functional.interpolate(pixels, scale_factor=2, mode="bicubic").clamp_(0, 1)
    return pixels


def random_crops(
    pixels: Tensor, aspect: Tensor, side: int, min_area: float, draw: torch.Generator
) -> Tensor:
    """Random resized crops ``[n, 3, side, side]``, half of them mirrored, slightly rotated.

    ``pixels`` are squashed to squares; ``aspect`` (width / height) undoes that. Areas are
    uniform in [``min_area``, 1], crop aspects log-uniform in [3/4, 4/3].
    """
    n = len(pixels)
    unit = torch.rand(6, n, generator=draw)
    area = min_area + (1 - min_area) * unit[0]
    ratio = torch.exp((unit[1] * 2 - 1) * float(np.log(4 / 3)))
    width = (area * ratio / aspect).sqrt().clamp(max=1.0)
    height = (area * aspect / ratio).sqrt().clamp(max=1.0)
    mirror = torch.where(unit[4] < 0.5, -1.0, 1.0)
    angle = (unit[5] * 2 - 1) * 0.15
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = mirror * width * angle.cos(), -width * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = mirror * height * angle.sin(), height * angle.cos()
    theta[:, 0, 2] = (1 - width) * (unit[2] * 2 - 1)
    theta[:, 1, 2] = (1 - height) * (unit[3] * 2 - 1)
    return _sample(pixels, theta, side)


def centre_crops(pixels: Tensor, aspect: Tensor, side: int) -> Tensor:
    """The central squares ``[n, 3, side, side]``, as open_clip's preprocessing takes them."""
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0] = (1 / aspect).clamp(max=1.0)
    theta[:, 1, 1] = aspect.clamp(max=1.0)
    return _sample(pixels, theta, side)


def _sample(pixels: Tensor, theta: Tensor, side: int) -> Tensor:
    grid = functional.affine_grid(theta, [len(pixels), 3, side, side], align_corners=False)
    return functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def jitter_colours(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Random brightness, contrast, saturation, some greys and some blank rectangles."""
    n, _, side, _ = pixels.shape
    unit = torch.rand(5, n, 1, 1, 1, generator=draw)
    grey = pixels.mean(1, keepdim=True)
    saturation = torch.where(unit[3] < 0.05, 0.0, 0.6 + 0.8 * unit[0])
    pixels = grey + (pixels - grey) * saturation
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (mean + (pixels - mean) * (0.6 + 0.8 * unit[1])) * (0.7 + 0.6 * unit[2])
    return _erase(pixels, side, unit[4].flatten() < 0.15, draw).clamp_(0, 1)


def _erase(pixels: Tensor, side: int, chosen: Tensor, draw: torch.Generator) -> Tensor:
    unit = torch.rand(4, len(pixels), 1, generator=draw)
    size = (0.2 + 0.3 * unit[:2]) * side
    start = unit[2:] * (side - size)
    line = torch.arange(side).float()
    inside = (line >= start) & (line < start + size)  # [2, n, side]
    hole = inside[0][:, :, None] & inside[1][:, None, :] & chosen[:, None, None]
    return pixels.masked_fill(hole[:, None], 0.45)


def normalised(pixels: Tensor) -> Tensor:
    """Pixels as the model takes them, channels last."""
    out = (pixels - MEAN[:, None, None]) / STD[:, None, None]
    return out.contiguous(memory_format=torch.channels_last)


def augmented(
    chosen: Sequence[tuple[Source, Tensor, float]], side: int, draw: torch.Generator
) -> Tensor:
    """One model-ready batch of the given rows and smallest crops of each source, in order."""
    crops = [
        random_crops(pixels_of(source, rows), source.aspect[rows], side, min_area, draw)
        for source, rows, min_area in chosen
    ]
    return normalised(jitter_colours(torch.cat(crops), draw))
