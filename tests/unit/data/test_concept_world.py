"""The concept world: deterministic scenes that say truthfully what they show."""

import csv
from pathlib import Path

import numpy as np
import pytest

from dncbm.data.concept_world import CLASSES, CONCEPTS, render_scene, write_concept_world
from dncbm.data.world_objects import OBJECTS
from dncbm.errors import InvalidInput, UnknownName


@pytest.mark.parametrize("label", CLASSES)
def test_scene_is_of_the_wanted_class_size_and_vocabulary(label: str) -> None:
    scene = render_scene(np.random.default_rng(3), 48, label)
    assert scene.label == label
    assert scene.image.size == (48, 48)
    assert scene.image.mode == "RGB"
    assert set(scene.concepts) <= set(CONCEPTS)
    assert len(set(scene.concepts)) == len(scene.concepts)
    assert label in scene.caption


def test_scene_depends_on_the_generator_alone() -> None:
    first, again, other = (render_scene(np.random.default_rng(s), 32) for s in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes()
    assert (first.caption, first.concepts) == (again.caption, again.concepts)
    assert first.image.tobytes() != other.image.tobytes()


def test_every_noun_is_drawn_sooner_or_later_and_noted() -> None:
    seen: set[str] = set()
    for seed in range(60):
        seen |= set(render_scene(np.random.default_rng(seed), 16).concepts)
    assert seen == set(CONCEPTS)


@pytest.mark.parametrize("noun", sorted(OBJECTS))
def test_a_noted_object_changes_pixels(noun: str) -> None:
    from dncbm.data.world_canvas import Canvas, Spot

    canvas = Canvas(32, np.random.default_rng(0))
    before = canvas.finish(light=1, tint=(0, 0, 0), noise=0, blur=0)
    OBJECTS[noun].draw(canvas, Spot(0.5, 0.7, 0.4), (200, 90, 60))
    after = canvas.finish(light=1, tint=(0, 0, 0), noise=0, blur=0)
    assert before.tobytes() != after.tobytes()


def test_captions_name_only_what_is_there() -> None:
    for seed in range(16):
        scene = render_scene(np.random.default_rng(seed), 16)
        for colour in ("red", "purple", "pink", "brown"):
            assert colour not in scene.caption.split() or colour in scene.concepts


@pytest.mark.parametrize(
    ("size", "label", "message"), [(8, None, "too small"), (32, "beech", "beach")]
)
def test_wrong_wishes_are_named(size: int, label: str | None, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        render_scene(np.random.default_rng(0), size, label)
    assert issubclass(UnknownName, InvalidInput)


def test_written_world_is_complete_and_repeatable(tmp_path: Path) -> None:
    write_concept_world(tmp_path / "a", num_images=40, size=16, seed=9)
    write_concept_world(tmp_path / "b", num_images=10, size=16, seed=9)
    with (tmp_path / "a" / "concepts.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 40
    for row in rows:
        file = tmp_path / "a" / row["path"]
        twin = tmp_path / "b" / row["path"]
        assert not twin.exists() or file.read_bytes() == twin.read_bytes()
        assert row["path"].split("/")[1] == row["label"]
        assert set(row["concepts"].split(";")) <= set(CONCEPTS)
    assert len(list((tmp_path / "b").rglob("*.jpg"))) == 10
    assert {row["path"].split("/")[0] for row in rows} == {"train", "validation", "test"}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_complete_world_is_kept_and_another_one_refused(tmp_path: Path) -> None:
    write_concept_world(tmp_path / "w", num_images=10, size=16, seed=1)
    stamp = (tmp_path / "w" / "concepts.csv").stat().st_mtime_ns
    write_concept_world(tmp_path / "w", num_images=10, size=16, seed=1)
    assert (tmp_path / "w" / "concepts.csv").stat().st_mtime_ns == stamp
    with pytest.raises(InvalidInput, match="does not hold this concept world"):
        write_concept_world(tmp_path / "w", num_images=10, size=16, seed=2)


def test_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="at least 1 image"):
        write_concept_world(tmp_path / "w", num_images=0, size=16, seed=2)
