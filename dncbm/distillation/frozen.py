"""A teacher asked once per photo: logits and explanations that are cropped as the photo is.

A live teacher costs a forward and a backward pass in every step. Its answer for the whole photo
can stand for that of a crop (Parchami-Araghi et al. 2024, frozen explanations): the map is cropped
and mirrored by the same box as the photo. Maps are kept at the resolution where they were made, in
half precision as shares of their largest value, since a cosine does not see their length.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dncbm.artifacts import fingerprint, read_json, write_json, writing
from dncbm.attribution.methods import upsampled
from dncbm.data.views import Boxes, Views
from dncbm.distillation.explanations import Explainer
from dncbm.distillation.viewed import Viewed
from dncbm.errors import ArtifactError, ArtifactMismatch, InvalidInput
from dncbm.training.photos import Photos
from dncbm.training.progress import Progress, no_progress

_CHUNK = 32
"""Photos per pass, the same in every run: a resumed cache has the bits of an uninterrupted one."""
_NOTE, _LOGITS, _MAPS = "frozen.json", "logits.npy", "maps.npy"


@final
class FrozenTeacher:
    """What a teacher said about whole photos; read from memory-mapped files.

    Args:
        rows: of the photos, ascending.
        logits: of each row.
        maps: explanation of each row, or None.
    """

    def __init__(
        self,
        rows: Int[np.ndarray, " n"],
        logits: Float[np.ndarray, "n K"],
        maps: Float[np.ndarray, "n i y x"] | None,
    ) -> None:
        self._rows, self._logits, self._maps = rows, logits, maps

    def logits(self, rows: Int[np.ndarray, " m"]) -> Float[Tensor, "m K"]:
        """Logits of whole photos.

        Raises:
            InvalidInput: a photo that the teacher was not asked about.
        """
        return torch.from_numpy(self._logits[self._places(rows)])

    def maps(
        self, rows: Int[np.ndarray, " m"], boxes: Boxes, views: Views, photo: tuple[int, int]
    ) -> Float[Tensor, "m i size size"]:
        """Explanations in crops of the photos.

        Args:
            rows: of the photos.
            boxes: a crop of each.
            views: their size is that of the crops.
            photo: height and width of the photos, at which the maps are before they are cropped.

        Raises:
            InvalidInput: a photo that was not asked about, or a teacher without explanations.
        """
        if self._maps is None:
            raise InvalidInput("The teacher was asked for logits alone. Freeze explanations too.")
        found = torch.from_numpy(self._maps[self._places(rows)]).float().to(boxes.device)
        return views.crops(upsampled(found, photo), boxes)

    def _places(self, rows: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self._rows, rows)
        known = places < len(self._rows)
        known[known] = self._rows[places[known]] == rows[known]
        if not known.all():
            raise InvalidInput(
                f"The teacher was not asked about photo {int(rows[~known][0])}. Freeze it for all "
                "photos that are trained on."
            )
        return places


def freeze(  # noqa: PLR0913 - a teacher, its photos, and where the answers go
    teacher: Viewed, explainer: Explainer | None, photos: Photos, folder: Path, *,
    marks: Mapping[str, str], rows: np.ndarray | None = None, device: str = "cpu",
    progress: Progress = no_progress,
) -> FrozenTeacher:  # fmt: skip
    """Ask a teacher about whole photos, or read what an earlier run was told.

    A killed run goes on where it was.

    Args:
        teacher: in any mode; asked in eval mode.
        explainer: of its network, for its best class; None asks for logits alone.
        photos: read by row.
        folder: of the cache; nothing else may be in it.
        marks: fingerprints of `teacher` and `photos`.
        rows: those to ask about; by default those that are trained on.
        device: where to compute.
        progress: told `("freeze", photos done, all)`.

    Raises:
        ArtifactMismatch: the folder holds answers of another teacher, photos or settings.
        InvalidInput: a map or a logit that is not finite.
        Unavailable: no space, or no right to write.
    """
    wanted = np.unique(photos.train if rows is None else rows)
    settings = fingerprint(
        [None if explainer is None else asdict(explainer), asdict(teacher.views), wanted.tolist()]
    )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        cache = _Cache(folder, {**marks, "settings": settings}, len(wanted))
        teacher.to(device).eval()
        progress("freeze", cache.done, len(wanted))
        for start in range(cache.done, len(wanted), _CHUNK):
            part = wanted[start : start + _CHUNK]
            cache.put(start, *_asked(teacher, explainer, photos.read(part).to(device)))
            progress("freeze", start + len(part), len(wanted))
    return FrozenTeacher(wanted, *cache.read())


def _asked(
    teacher: Viewed, explainer: Explainer | None, levels: Tensor
) -> tuple[Float[np.ndarray, "m K"], Float[np.ndarray, "m i y x"] | None]:
    """Logits in float32, and maps as they are kept."""
    pixels = teacher.views.whole(levels)
    if explainer is None:
        with torch.no_grad():
            return teacher.network(pixels).float().cpu().numpy(), None
    found = explainer(teacher.network, pixels)
    maps = found.maps.float()
    most = maps.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return found.logits.float().cpu().numpy(), (maps / most).half().cpu().numpy()


class _Cache:
    """The files: arrays that fill up, and a note of how far they are and whose they are."""

    def __init__(self, folder: Path, marks: Mapping[str, str], count: int) -> None:
        self.folder, self.marks, self.count = folder, dict(marks), count
        self.done, self.has_maps = 0, False
        try:
            note: Any = read_json(folder / _NOTE)
        except ArtifactError:
            return
        self._require_ours(note)
        self.done, self.has_maps = int(note["done"]), bool(note["has_maps"])

    def _require_ours(self, note: Any) -> None:
        found = note.get("marks", {}) if isinstance(note, dict) else {}
        for role, mark in self.marks.items():
            if found.get(role) != mark:
                raise ArtifactMismatch(
                    f"{self.folder} holds a teacher's answers for other {role}: "
                    f"{str(found.get(role))[:12]} there, {mark[:12]} here. Remove the folder, or "
                    "choose another one."
                )

    def put(self, start: int, logits: np.ndarray, maps: np.ndarray | None) -> None:
        """Write some rows; they count once the note says so."""
        parts = {_LOGITS: logits} | ({} if maps is None else {_MAPS: maps})
        self.has_maps = maps is not None
        for name, part in parts.items():
            if not np.isfinite(part).all():
                raise InvalidInput(
                    f"The teacher's {Path(name).stem} are not finite numbers from photo {start} "
                    "on. Check its weights."
                )
            self._array(name, part, start)[start : start + len(part)] = part
        done = start + len(logits)
        note = {"done": done, "has_maps": self.has_maps, "marks": self.marks}
        write_json(self.folder / _NOTE, note)
        self.done = done

    def _array(self, name: str, part: np.ndarray, start: int) -> np.ndarray:
        shape = (self.count, *part.shape[1:])
        return np.lib.format.open_memmap(
            self.folder / name, mode="r+" if start else "w+", dtype=part.dtype, shape=shape
        )

    def read(self) -> tuple[np.ndarray, np.ndarray | None]:
        logits = np.load(self.folder / _LOGITS, mmap_mode="r")
        maps = np.load(self.folder / _MAPS, mmap_mode="r") if self.has_maps else None
        return logits, maps
