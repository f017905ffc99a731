"""Frozen explanations: they follow crops and flips to the pixel, and belong to one teacher."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dncbm.artifacts import read_json
from dncbm.data.views import Views
from dncbm.distillation import frozen as module
from dncbm.distillation.explanations import Explainer
from dncbm.distillation.frozen import FrozenTeacher, freeze
from dncbm.distillation.viewed import Viewed
from dncbm.errors import ArtifactMismatch, InvalidInput
from tests.oracles import distillation as oracle
from tests.unit.distillation.parts import bcos, cnn, photos

MARKS = {"teacher": "t" * 64, "photos": "p" * 64}
VIEWS = Views(size=12)


def _boxes(count: int, seed: int = 0) -> torch.Tensor:
    return VIEWS.draw(count, torch.Generator().manual_seed(seed))


def test_maps_follow_crops_and_flips_against_a_slow_oracle() -> None:
    """Maps of a layer, of another shape than the photos, in float16 as they are kept."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(6, 2, 3, 4)).astype(np.float16)
    rows = np.array([1, 3, 4, 7, 8, 9])
    frozen = FrozenTeacher(rows, np.zeros((6, 2), np.float32), maps)
    boxes = _boxes(4)
    assert {-1.0, 1.0} == set(boxes[:, 4].tolist())
    found = frozen.maps(np.array([8, 3, 1, 9]), boxes, VIEWS, (18, 24))
    chosen = maps[[4, 1, 0, 5]].astype(float)
    wanted = oracle.maps_in_crops(chosen, boxes.double().numpy(), (18, 24), 12)
    assert np.allclose(found.numpy(), wanted, atol=2e-5)


def test_a_photo_as_its_own_map_is_cropped_as_the_photo_is() -> None:
    """Bit by bit, mirrored crops among them."""
    found = photos(8, side=20)
    levels = found.read(np.arange(8))
    frozen = FrozenTeacher(np.arange(8), np.zeros((8, 1), np.float32), levels.half().numpy())
    boxes = _boxes(8, seed=3)
    cut = frozen.maps(np.arange(8), boxes, VIEWS, (20, 20))
    assert torch.equal(cut / 255, VIEWS.cropped(levels, boxes))
    whole = torch.tensor([[1.0, 1, 0, 0, 1], [1, 1, 0, 0, -1]])
    full = frozen.maps(np.array([2, 2]), whole, Views(size=20), (20, 20))
    assert torch.allclose(full[0], levels[2].float(), atol=1e-2)
    assert torch.allclose(full[1], levels[2].flip(-1).float(), atol=1e-2)


@pytest.mark.parametrize("kind", ["gradcam", "bcos"])
def test_what_is_kept_is_what_the_teacher_says_about_whole_photos(
    kind: str, tmp_path: Path
) -> None:
    side, found = (bcos() if kind == "bcos" else cnn()).eval(), photos()
    explainer = _explainer(kind, side)
    frozen = freeze(side, explainer, found, tmp_path, marks=MARKS)
    rows = found.train[[5, 0, 2]]
    pixels = side.views.whole(found.read(rows))
    said = explainer(side.network, pixels)
    assert torch.allclose(frozen.logits(rows), said.logits, atol=1e-5)
    box = torch.tensor([[1.0, 1, 0, 0, 1]]).expand(3, -1)
    maps = frozen.maps(rows, box, Views(size=20), (20, 20))
    wanted = module.upsampled(said.maps, (20, 20))
    near = torch.cosine_similarity(maps.flatten(1), wanted.flatten(1))
    assert float(near.min()) > 0.999
    kept = np.load(tmp_path / "maps.npy", mmap_mode="r")
    assert kept.dtype == np.float16
    assert np.abs(kept).max(axis=(1, 2, 3)) == pytest.approx(np.ones(18))


def _explainer(kind: str, side: Viewed) -> Explainer:
    return Explainer.of(kind, side.network, torch.rand(2, 3, 16, 16))


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side, found = cnn().eval(), photos(120)
    explainer = _explainer("gradcam", side)
    freeze(side, explainer, found, tmp_path / "a", marks=MARKS)
    asked: list[int] = []
    original = module._asked

    def dying(*arguments: Any) -> Any:
        asked.append(len(arguments[2]))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "_asked", dying)
    with pytest.raises(KeyboardInterrupt):
        freeze(side, explainer, found, tmp_path / "b", marks=MARKS)
    assert read_json(tmp_path / "b" / "frozen.json")["done"] == 32
    told: list[int] = []
    freeze(side, explainer, found, tmp_path / "b", marks=MARKS,
           progress=lambda _stage, done, _all: told.append(done))  # fmt: skip
    assert told == [32, 64, 90]
    assert asked == [32, 32, 32, 26]
    for name in ("logits.npy", "maps.npy", "frozen.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    freeze(side, explainer, found, tmp_path / "b", marks=MARKS)
    assert len(asked) == 4  # nothing is asked again


@pytest.mark.parametrize("role", ["teacher", "photos", "settings"])
def test_answers_of_something_else_are_refused_by_name(role: str, tmp_path: Path) -> None:
    side, found = cnn().eval(), photos()
    explainer = _explainer("gradcam", side)
    freeze(side, explainer, found, tmp_path, marks=MARKS)
    marks, other = MARKS | ({} if role == "settings" else {role: "x" * 64}), explainer
    if role == "settings":
        other = Explainer(kind="gradcam", layer="layer2")
    with pytest.raises(ArtifactMismatch, match=f"other {role}"):
        freeze(side, other, found, tmp_path, marks=marks)


def test_refused(tmp_path: Path) -> None:
    side, found = cnn().eval(), photos()
    frozen = freeze(side, None, found, tmp_path / "a", marks=MARKS)
    assert frozen.logits(found.train[:2]).shape == (2, 3)
    with pytest.raises(InvalidInput, match="logits alone"):
        frozen.maps(found.train[:1], _boxes(1), VIEWS, (20, 20))
    for row in (0, 999):
        with pytest.raises(InvalidInput, match=f"not asked about photo {row}"):
            frozen.logits(np.array([row]))
    with torch.no_grad():
        next(side.parameters()).fill_(float("nan"))
    with pytest.raises(InvalidInput, match="not finite"):
        freeze(side, None, found, tmp_path / "b", marks=MARKS)
