"""Methods that watch outputs while parts of the features are hidden; no gradients are needed.

All masks are served by forward passes of bounded size, and each pass serves all targets. At an
inner layer, features of the layer are hidden (ML-Att, Rao et al. 2022).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.attribution.evaluation import masked_values, refuse_training, settled, values_of
from dncbm.attribution.layers import Layer, Network, Split, split_at
from dncbm.attribution.methods import Maps
from dncbm.bcos.explain import Targets
from dncbm.errors import InvalidInput
from dncbm.training.seeding import generator

INPUT_WINDOW, LAYER_WINDOW = (16, 8), (5, 2)
"""Side and stride of the occluded window at the input and at layers (Rao et al. 2022)."""
BATCH_SIZE = 128


def occlusion(  # noqa: PLR0913 - settings of the paper
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    window: int | None = None,
    stride: int | None = None,
    baseline: Tensor | float = 0.0,
    batch_size: int = BATCH_SIZE,
    create_graph: bool = False,
) -> Maps:
    """How much a target falls when a window is hidden (Zeiler & Fergus 2014).

    A place gets the mean over the windows that hide it. The window starts at every `stride`-th
    place and covers all channels; at the far borders it is cut off, so that each place is hidden at
    least once. A window larger than the features is as large as they are.

    Options:
        window: side in places; by default 16 at the input and 5 at layers.
        stride: by default 8 at the input and 2 at layers.
        baseline: what a hidden place holds, broadcast against the features.
        batch_size: most images in one forward pass.

    Raises:
        InvalidInput: a window or stride below 1, or a stride that leaves places out.
    """
    refuse_training("occlusion", create_graph)
    usual = INPUT_WINDOW if layer is None else LAYER_WINDOW
    side, step = window or usual[0], stride or usual[1]
    if not 1 <= step <= side:
        raise InvalidInput(f"Window {side}, stride {step}; the rule is 1 <= stride <= window.")
    with torch.inference_mode(False), torch.no_grad():
        split = split_at(forward, images, layer)
        targets = settled(split, targets)
        [before] = values_of(split.explain(split.features), targets, len(images))
        windows = _Windows(split.features, side, step)
        total = split.features.new_zeros(*before.shape, *windows.shape)
        for kept, values in masked_values(
            split, lambda part: 1 - windows[part][:, None, None], len(windows), targets,
            baseline=baseline, batch_size=batch_size,
        ):  # fmt: skip
            total += torch.einsum("knt,kyx->ntyx", before - values, 1 - kept[:, 0, 0])
        return total / windows.times()


class _Windows:
    """Windows over features (n, d, y, x), row by row; 1 inside a window and 0 outside."""

    def __init__(self, features: Tensor, side: int, stride: int) -> None:
        self.shape = features.shape[-2:]
        self._lines = [_intervals(size, side, stride).to(features) for size in self.shape]

    def __len__(self) -> int:
        return len(self._lines[0]) * len(self._lines[1])

    def __getitem__(self, chosen: slice) -> Float[Tensor, "k y x"]:
        places = torch.arange(len(self))[chosen].to(self._lines[0].device)
        rows, columns = self._lines
        row = rows[places // len(columns)]
        return row[:, :, None] * columns[places % len(columns)][:, None, :]

    def times(self) -> Float[Tensor, "y x"]:
        """How many windows cover each place."""
        rows, columns = self._lines
        return rows.sum(dim=0)[:, None] * columns.sum(dim=0)[None, :]


def _intervals(size: int, side: int, stride: int) -> Float[Tensor, "k size"]:
    side = min(side, size)
    starts = torch.arange(-(-(size - side) // stride) + 1)[:, None] * stride
    places = torch.arange(size)[None, :]
    return ((places >= starts) & (places < starts + side)).float()


def rise(  # noqa: PLR0913 - settings of the paper
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    masks: int = 1000,
    cells: int = 6,
    keep: float = 0.1,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    create_graph: bool = False,
) -> Maps:
    """Mean of random masks, each weighted by the target under it (Petsiuk et al. 2018, eq. 6).

    A mask is a grid of `cells` x `cells` random bits that is enlarged to one cell more than the
    features, bilinear, and cut out at a random shift. The masks of a seed are the same for all
    images and batch sizes. The method is meant for probabilities: with targets of any sign, such
    as logits, a function that gives probabilities makes a better target.

    Options:
        masks: number M of masks; 6000 gave similar results in Rao et al. 2022.
        cells: cells s of a mask along a side.
        keep: probability p that a cell is kept.
        seed: of the masks.
        batch_size: most images in one forward pass.

    Raises:
        InvalidInput: no masks or cells, or a probability outside (0, 1].
    """
    refuse_training("rise", create_graph)
    if masks < 1 or cells < 1 or not 0 < keep <= 1:
        raise InvalidInput(
            f"{masks} masks of {cells} x {cells} cells kept with probability {keep}; the rule is "
            "at least one mask and one cell, and a probability above 0 and up to 1."
        )
    with torch.inference_mode(False), torch.no_grad():
        split = split_at(forward, images, layer)
        targets = settled(split, targets)
        drawn = _RandomMasks(split, masks, cells, keep, seed)
        total = torch.zeros((), dtype=split.features.dtype, device=split.features.device)
        for kept, values in masked_values(
            split, lambda part: drawn[part][:, None, None], masks, targets, batch_size=batch_size
        ):
            total = total + torch.einsum("knt,kyx->ntyx", values, kept[:, 0, 0])
        return total / (keep * masks)


class _RandomMasks:
    """Masks of RISE; only the bits and shifts are held."""

    def __init__(self, split: Split, count: int, cells: int, keep: float, seed: int) -> None:
        draw = generator(seed, "rise")
        self._like, (high, wide) = split.features, split.features.shape[-2:]
        self._bits = (torch.rand(count, 1, cells, cells, generator=draw) < keep).double()
        self._sizes = (-(-high // cells), -(-wide // cells))
        self._enlarged = tuple((cells + 1) * size for size in self._sizes)
        self._shifts = torch.stack(
            [torch.randint(size, (count,), generator=draw) for size in self._sizes], dim=1
        )

    def __getitem__(self, chosen: slice) -> Float[Tensor, "k y x"]:
        high, wide = self._like.shape[-2:]
        large = functional.interpolate(
            self._bits[chosen].to(self._like), self._enlarged, mode="bilinear", align_corners=False
        )
        cut = [
            mask[0, top : top + high, left : left + wide]
            for mask, (top, left) in zip(large, self._shifts[chosen].tolist(), strict=True)
        ]
        return torch.stack(cut)
