"""Images to the pixels that an encoder was trained on, in two steps.

`resize` is geometry (worker processes do it and send bytes), `normalise` is arithmetic on a
batch. Together they equal open_clip's own inference transform, bit by bit.
"""

from typing import Any

import numpy as np
import open_clip
import torch
from jaxtyping import Float, UInt8
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose

MAX_ASPECT = 16
"""Longer pictures are cut around their middle: scaling their short side up would need
unbounded memory, scaling their long side down would leave nothing."""


class Preprocess:
    """A PIL image to a normalised float tensor (3, height, width); can be pickled."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        steps = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms
        # open_clip ends with conversion to tensor and normalisation; before that is geometry.
        self._geometry = Compose(steps[:-2])
        self._mean = torch.tensor(steps[-1].mean)
        self._std = torch.tensor(steps[-1].std)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        """Normalised pixels of one image."""
        return self.normalise(torch.from_numpy(self.resize(image))[None])[0]

    def resize(self, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
        """The image at the encoder's size, RGB, not normalised; writable and contiguous."""
        return np.array(self._geometry(_cut(image)).convert("RGB"))

    def normalise(self, pixels: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        """Shares of white, minus the mean, over the standard deviation, per channel."""
        count, height, width, channels = pixels.shape
        found = torch.empty(count, channels, height, width)
        mean, std = self._mean[:, None, None], self._std[:, None, None]
        # image by image, so that the second and third step find it in the processor's cache
        for image, target in zip(pixels, found, strict=True):
            target.copy_(image.permute(2, 0, 1)).div_(255).sub_(mean).div_(std)
        return found


def _cut(image: Image.Image) -> Image.Image:
    """The middle of an image that is more than `MAX_ASPECT` times as long as it is wide."""
    width = min(image.width, image.height * MAX_ASPECT)
    height = min(image.height, image.width * MAX_ASPECT)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def preprocess_config(model: torch.nn.Module) -> dict[str, Any]:
    """The settings that open_clip attached to a model, as JSON-serialisable values."""
    config = open_clip.get_model_preprocess_cfg(model)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(config.items())}
