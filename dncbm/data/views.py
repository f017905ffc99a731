"""Batches of photos as a network sees them: a random crop each in training, whole otherwise."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from dncbm.errors import InvalidInput

Boxes = Float[Tensor, "n 5"]
"""Height, width (shares of the photo), centre (y, x from -1 to 1) and 1 or -1 if mirrored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """Pixels of one size for a network, as shares of white or normalised."""

    size: int
    """Height and width."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Per channel; subtracted from shares of white."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Per channel; what remains is divided by it."""
    smallest: float = 0.25
    """Smallest share of a photo that a random crop shows."""
    longest: float = 4 / 3
    """Largest ratio of a crop's sides to each other."""
    mirrored: bool = True
    """Turn half of the random crops left to right."""

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.smallest <= 1 or self.longest < 1:
            raise InvalidInput(
                f"Views of size {self.size}, smallest {self.smallest}, longest {self.longest}; the "
                "rule is a size of at least 1, a share in (0, 1] and a ratio of at least 1."
            )

    def draw(self, count: int, generator: torch.Generator) -> Boxes:
        """Random crops: area and position even, the ratio of sides even in its logarithm.

        Inception's crops (Szegedy et al. 2015), but a side that is too long is cut instead of
        drawn again, so that a crop takes the same number of draws whatever they are.
        """
        u = torch.rand(5, count, generator=generator)
        area = self.smallest + (1 - self.smallest) * u[0]
        ratio = torch.exp((2 * u[1] - 1) * torch.log(torch.tensor(self.longest)))
        height, width = (area / ratio).sqrt().clamp_max(1), (area * ratio).sqrt().clamp_max(1)
        y, x = (1 - height) * (2 * u[2] - 1), (1 - width) * (2 * u[3] - 1)
        turned = 1 - 2 * ((u[4] < 0.5) & self.mirrored).float()
        return torch.stack([height, width, y, x, turned], dim=1)

    def cropped(
        self, photos: UInt8[Tensor, "n 3 h w"], boxes: Boxes
    ) -> Float[Tensor, "n 3 size size"]:
        """The crops, interpolated bilinearly; meant for crops that are enlarged, not shrunk."""
        return self._normalised(self.crops(photos.float(), boxes) / 255)

    def crops(self, maps: Float[Tensor, "n c h w"], boxes: Boxes) -> Float[Tensor, "n c size size"]:
        """The same crops of what belongs to the photos pixel by pixel; nothing is normalised."""
        height, width, y, x, turned = boxes.to(maps).unbind(1)
        zero = torch.zeros_like(y)
        rows = torch.stack([width * turned, zero, x, zero, height, y], dim=1)
        shape = [len(maps), maps.shape[1], self.size, self.size]
        grid = functional.affine_grid(rows.view(-1, 2, 3), shape, align_corners=False)
        return functional.grid_sample(
            maps, grid, mode="bilinear", padding_mode="border", align_corners=False
        )

    def cropped_masks(
        self, masks: Bool[Tensor, "n t h w"], boxes: Boxes
    ) -> Bool[Tensor, "n t size size"]:
        """Masks of the photos, of any size, in the same crops.

        A pixel of a crop gets the value of that pixel of the mask in which its middle lies. Middles
        on the edge between two pixels belong to the later one.
        """
        height, width, y, x, turned = boxes.to(masks.device, torch.float64)[:, :, None].unbind(1)
        middles = (torch.arange(self.size, device=masks.device).double() + 0.5) / self.size - 0.5
        rows = _pixels_at((y + 1) / 2 + height * middles, masks.shape[-2])
        columns = _pixels_at((x + 1) / 2 + width * turned * middles, masks.shape[-1])
        images = torch.arange(len(masks), device=masks.device)[:, None, None]
        return masks.movedim(1, 3)[images, rows[:, :, None], columns[:, None, :]].movedim(3, 1)

    def whole(self, photos: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 size size"]:
        """All of each photo."""
        return self._normalised(self._resized(photos.float()) / 255)

    def of_shares(self, shares: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 size size"]:
        """All of pictures that are given as shares of white, of any size, such as common crops."""
        return self._normalised(self._resized(shares))

    def _resized(self, pixels: Tensor) -> Tensor:
        size = (self.size, self.size)
        if pixels.shape[-2:] == size:
            return pixels
        return functional.interpolate(pixels, size, mode="bilinear", antialias=True)

    def _normalised(self, shares: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=shares.device)[:, None, None]
        std = torch.tensor(self.std, device=shares.device)[:, None, None]
        return (shares - mean) / std


def _pixels_at(shares: Float[Tensor, "n size"], count: int) -> Int64[Tensor, "n size"]:
    """Which of `count` pixels lies at a share of their way, edges held against rounding."""
    return (shares * count + 1e-6).floor().long().clamp(0, count - 1)
