"""One attribution method at one layer in one setting: what is measured, kept and resumed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from dncbm.attribution.aggregate import MapStore
from dncbm.attribution.catalogue import method_named
from dncbm.attribution.chain import Chain
from dncbm.attribution.localisation import Plan, grids_of
from dncbm.attribution.scores import cell_masks, chance, mass_ratio
from dncbm.attribution.settings import Setting
from dncbm.errors import InvalidInput
from dncbm.report.localisation_data import Part
from dncbm.training.progress import Progress
from pipelines.localised_done import Done, keep, read
from pipelines.localised_photos import PhotoReader

_OPTIONS = {
    "integrated_gradients": {"steps": 20},
    "smoothed_integrated_gradients": {"steps": 20},
}
"""Of methods: 20 steps as in the paper's code."""
_AT_ONCE = 4
"""Pictures at a time."""
_EXAMPLE = 224
"""Largest side of a map that is shown as an example."""

Masks = Callable[[Tensor, tuple[int, int]], Bool[Tensor, "#g t h w"]]
"""Photos of each picture (g, cells) and its size to where each of its maps should lie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One method at one layer in one setting: the unit that is resumed."""

    name: str
    """Of the setting: `gridpg`, `difull`, `dipart` or `boxes`."""
    setting: Setting
    plan: Plan
    reader: PhotoReader
    masks: Masks
    method: str
    layer: str
    """As it was asked for."""
    module: str | None
    """Its name in the network; None is the input."""
    file: Path
    """Without suffix."""

    def label(self) -> dict[str, Any]:
        """What the rows of its maps have in common."""
        return {
            "method": self.method, "layer": self.layer, "module": self.module or "",
            "setting": self.name, "side": self.setting.side,
        }  # fmt: skip

    def picture(self) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
        """The first picture, and the class of its first cell."""
        side = self.setting.side
        levels = self.reader.levels(self.plan.sources[0].tolist())
        rows = levels.unflatten(0, (side, side)).permute(0, 2, 1, 3, 4)  # r h c w 3
        picture = rows.flatten(0, 1).flatten(1, 2)
        return picture.numpy(), self.reader.subject.names[int(self.plan.classes[0, 0])]


def masks_of_cells(setting: Setting) -> Masks:
    """Each map should lie in its own cell."""
    cells = list(setting.scored)
    return lambda _photos, size: cell_masks(setting.side, *size)[cells][None]


def all_done(tasks: Sequence[Task], kernels: Sequence[int], progress: Progress) -> Iterator[Done]:
    """What each task came to, now or in an earlier run."""
    total, before = sum(len(task.plan.sources) for task in tasks), 0
    for task in tasks:
        found = read(task.file)
        if found is None:

            def tell(pictures: int, before: int = before) -> None:
                progress("localise", before + pictures, total)

            found = measured(task, kernels, tell)
            keep(task.file, found)
        before += len(task.plan.sources)
        progress("localise", before, total)
        yield found


def measured(task: Task, kernels: Sequence[int], tell: Callable[[int], None]) -> Done:
    """Maps and scores of one task; a method that cannot be had there says why."""
    if task.method == "bcos" and not task.reader.subject.is_bcos:
        return Done([], {}, "W(x) is exact in B-cos networks only.")
    stores = {kernel: MapStore() for kernel in kernels}
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Tensor] = {}
    try:
        for pictures, maps in _maps(task):
            masks = task.masks(pictures.sources, pictures.size).to(maps.device)
            masks = masks.expand(len(maps), -1, -1, -1)
            for kernel in kernels:
                rows += _scored(task, maps, masks, pictures, kernel, stores[kernel])
            if not arrays:
                arrays = _examples(maps[0, 0], masks[0, 0], kernels)
            tell(pictures.first + len(maps))
    except InvalidInput as error:
        return Done([], {}, str(error))
    for kernel, store in stores.items():
        mean = store.aggregate()
        arrays[f"maps {kernel}"] = mean.maps.contiguous()
        arrays[f"counts {kernel}"] = torch.tensor(mean.counts)
        arrays[f"normaliser {kernel}"] = torch.tensor(mean.normaliser)
    return Done(rows, arrays, "")


class _Pictures(NamedTuple):
    first: int
    classes: Tensor
    sources: Tensor
    size: tuple[int, int]


def _maps(task: Task) -> Iterator[tuple[_Pictures, Tensor]]:
    """Pictures and the maps of their scored cells, a few at a time."""
    method, setting, first = method_named(task.method).function, task.setting, 0
    for grids in grids_of(task.plan, task.reader.pixels, at_once=_AT_ONCE):
        maps = method(
            setting, grids.images, setting.targets(grids.classes), layer=task.module,
            **_OPTIONS.get(task.method, {}),
        )  # fmt: skip
        size = (grids.images.shape[-2], grids.images.shape[-1])
        yield _Pictures(first, grids.classes, grids.sources, size), maps.detach()
        first += len(grids.images)


def _scored(
    task: Task, maps: Tensor, masks: Tensor, pictures: _Pictures, kernel: int, store: MapStore
) -> list[dict[str, Any]]:
    """One row per map; maps for the first cell are kept for the mean maps."""
    positive = Chain(size=pictures.size, smooth=kernel)(maps)
    scores, levels = mass_ratio(positive, masks), chance(masks)
    inside = (positive[:, 0] * masks[:, 0]).sum(dim=(-2, -1))
    store.add(positive[:, 0], scores[:, 0], inside)
    rows = []
    for g, line in enumerate(scores.cpu().tolist()):
        ids = [task.reader.ids[photo] for photo in pictures.sources[g].tolist()]
        for t, cell in enumerate(task.setting.scored):
            name = task.reader.subject.names[int(pictures.classes[g, cell])]
            rows.append(
                task.label() | {
                    "smooth": kernel, "grid": pictures.first + g, "cell": cell, "class": name,
                    "score": line[t], "chance": float(levels[g, t]), "image": ids[cell],
                    "images": ids,
                }
            )  # fmt: skip
    return rows


def _examples(map_: Tensor, mask: Tensor, kernels: Sequence[int]) -> dict[str, Tensor]:
    """The signed maps of the first picture's first cell, and its mask."""
    size = (min(mask.shape[-2], _EXAMPLE), min(mask.shape[-1], _EXAMPLE))
    found: dict[str, Tensor] = {}
    for kernel in kernels:
        maps = Chain(size=size, positive=False, smooth=kernel)(map_[None, None])
        found[f"example {kernel}"] = maps[0, 0].float().cpu().contiguous()
    small = torch.nn.functional.interpolate(mask[None, None].float(), size)
    found["mask"] = small[0, 0].cpu().to(torch.uint8).contiguous()
    return found


def parts_of(task: Task, result: Done, kernels: Sequence[int]) -> Iterator[Part]:
    """What the report shows of a task, one part per kernel."""
    for kernel in kernels:
        mine = [row for row in result.rows if row["smooth"] == kernel]
        yield Part(
            method=task.method, layer=task.layer, module=task.module or "", setting=task.name,
            side=task.setting.side, smooth=kernel,
            scores=np.array([row["score"] for row in mine]),
            chance=float(np.mean([row["chance"] for row in mine])),
            means=result.arrays[f"maps {kernel}"].numpy(),
            counts=tuple(result.arrays[f"counts {kernel}"].tolist()),
            normaliser=float(result.arrays[f"normaliser {kernel}"]),
            example=result.arrays[f"example {kernel}"].numpy(),
            mask=result.arrays["mask"].numpy().astype(bool),
        )  # fmt: skip
