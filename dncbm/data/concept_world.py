"""Rendered scenes whose concepts are known: classes that are mixtures of plain words.

A scene is a sky, a ground and objects, drawn with PIL alone. Its class decides how likely
each of them is, and many are shared between classes, so no single concept gives a class
away. What was drawn is written down as words, so discovery and naming can be scored.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dncbm.artifacts import write_bytes, writing
from dncbm.data.world_canvas import PALETTE, Canvas, Colour, Spot, blend
from dncbm.data.world_ground import GROUNDS, SKIES, WEATHER
from dncbm.data.world_objects import OBJECTS
from dncbm.errors import InvalidInput, UnknownName
from dncbm.files import draft_of, publish

CONCEPTS_FILE = "concepts.csv"
_SPLIT_OF_TEN = (
    "train", "test", "train", "validation", "train", "train", "test", "train", "train", "train",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scene:
    """One rendered picture and the truth about it."""

    image: Image.Image
    caption: str
    label: str
    concepts: tuple[str, ...]
    """Every concept that was drawn, in drawing order, each once."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How likely each sky, ground and object is in scenes of one class."""

    skies: dict[str, float]
    grounds: dict[str, float]
    objects: dict[str, tuple[float, int]]
    """Noun -> chance that it appears, and the most copies of it."""


_DAY = {"day": 0.68, "sunset": 0.18, "grey": 0.1, "night": 0.04}
_COMMON = (
    "tree", "person", "bird", "cloud", "ball", "flag", "bench", "house", "balloon", "kite",
    "rock", "bush", "car", "mountain", "flower", "fence", "lamp", "tent",
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
    "beach": Recipe(
        _DAY,
        {"shore": 0.85, "sand": 0.15},
        {"umbrella": (0.6, 2), "palm": (0.45, 2), "ball": (0.45, 1), "boat": (0.3, 1),
         "person": (0.5, 3), "sun": (0.5, 1), "kite": (0.2, 1), "bird": (0.3, 3)},
    ),
    "harbour": Recipe(
        _DAY,
        {"quay": 0.6, "water": 0.3, "shore": 0.1},
        {"boat": (0.9, 3), "lighthouse": (0.5, 1), "house": (0.4, 2), "flag": (0.4, 2),
         "bird": (0.5, 4), "lamp": (0.25, 1), "mountain": (0.2, 1), "person": (0.25, 1)},
    ),
    "garden": Recipe(
        _DAY,
        {"grass": 1.0},
        {"flower": (0.9, 7), "bush": (0.6, 3), "fence": (0.5, 1), "house": (0.45, 1),
         "tree": (0.5, 2), "bench": (0.3, 1), "sun": (0.3, 1), "person": (0.2, 1)},
    ),
    "city street": Recipe(
        {"day": 0.6, "grey": 0.2, "sunset": 0.2},
        {"road": 1.0},
        {"building": (0.96, 7), "car": (0.7, 2), "traffic light": (0.4, 1), "tree": (0.4, 2),
         "person": (0.5, 3), "lamp": (0.4, 2), "cloud": (0.3, 2), "flag": (0.15, 1)},
    ),
    "night city": Recipe(
        {"night": 0.85, "sunset": 0.15},
        {"road": 0.7, "quay": 0.15, "water": 0.15},
        {"building": (0.96, 7), "car": (0.5, 2), "moon": (0.6, 1), "lamp": (0.5, 2),
         "traffic light": (0.3, 1), "person": (0.25, 2), "boat": (0.1, 1)},
    ),
    "snowy mountain": Recipe(
        {"day": 0.55, "grey": 0.2, "sunset": 0.12, "night": 0.13},
        {"snow": 0.85, "grass": 0.15},
        {"snowy peak": (0.85, 3), "pine": (0.65, 4), "house": (0.3, 1), "snowman": (0.3, 1),
         "rock": (0.35, 2), "person": (0.2, 1), "cloud": (0.3, 2), "moon": (0.1, 1)},
    ),
    "playground": Recipe(
        _DAY,
        {"grass": 0.65, "sand": 0.35},
        {"slide": (0.7, 1), "swing": (0.6, 1), "ball": (0.5, 2), "person": (0.6, 3),
         "bench": (0.35, 1), "fence": (0.35, 1), "tree": (0.45, 2), "balloon": (0.25, 2)},
    ),
    "desert": Recipe(
        {"day": 0.6, "sunset": 0.3, "night": 0.1},
        {"sand": 1.0},
        {"cactus": (0.7, 4), "sun": (0.6, 1), "rock": (0.5, 3), "pyramid": (0.35, 2),
         "mountain": (0.35, 2), "tent": (0.3, 1), "palm": (0.2, 1), "moon": (0.08, 1)},
    ),
    "farm": Recipe(
        _DAY,
        {"field": 0.55, "grass": 0.45},
        {"barn": (0.65, 1), "fence": (0.6, 1), "tractor": (0.45, 1), "sheep": (0.55, 4),
         "tree": (0.4, 2), "house": (0.2, 1), "cloud": (0.4, 2), "sun": (0.25, 1)},
    ),
    "forest": Recipe(
        {"day": 0.55, "grey": 0.25, "sunset": 0.1, "night": 0.1},
        {"grass": 0.9, "snow": 0.1},
        {"tree": (0.85, 6), "pine": (0.75, 5), "mushroom": (0.5, 3), "bush": (0.5, 3),
         "tent": (0.2, 1), "rock": (0.3, 2), "bird": (0.2, 2), "person": (0.15, 1)},
    ),
}  # fmt: skip

CLASSES: tuple[str, ...] = tuple(RECIPES)


def _all_concepts() -> tuple[str, ...]:
    words = {word for thing in OBJECTS.values() for word in thing.shows} | set(OBJECTS)
    words |= {word for painter in (*SKIES.values(), *GROUNDS.values()) for word in painter.shows}
    return tuple(sorted((words | set(PALETTE) | set(WEATHER)) - {"snowy peak"}))


CONCEPTS: tuple[str, ...] = _all_concepts()


def render_scene(rng: np.random.Generator, size: int, label: str | None = None) -> Scene:
    """A square RGB scene of `size` pixels, of class `label` or of a class that `rng` picks.

    Raises:
        UnknownName: `label` is not one of `CLASSES`.
        InvalidInput: `size` is below 16.
    """
    if size < 16:
        raise InvalidInput(f"A scene of {size} pixels is too small to draw. Use 16 or more.")
    if label is not None and label not in RECIPES:
        raise UnknownName("scene class", label, CLASSES)
    name = label if label is not None else CLASSES[int(rng.integers(len(CLASSES)))]
    return render_recipe(rng, size, RECIPES[name], name)


def render_recipe(rng: np.random.Generator, size: int, recipe: Recipe, label: str) -> Scene:
    """A scene of a recipe of one's own, for worlds with other correlations."""
    canvas = Canvas(size, rng)
    sky = _draw_backdrop(canvas, recipe)
    return Scene(_develop(canvas, sky), _caption(canvas, label), label, tuple(canvas.concepts))


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    names, values = list(weights), np.asarray(list(weights.values()))
    return names[int(rng.choice(len(names), p=values / values.sum()))]


def _draw_backdrop(canvas: Canvas, recipe: Recipe) -> str:
    """Draw sky, far things, ground, near things, from back to front; return the kind of sky."""
    rng, horizon = canvas.rng, canvas.uniform(0.38, 0.62)
    sky, ground = _pick(rng, recipe.skies), _pick(rng, recipe.grounds)
    nouns = _choose_objects(rng, recipe, dark=sky == "night")
    SKIES[sky].draw(canvas, horizon)
    canvas.note(*SKIES[sky].shows)
    _draw_all(canvas, [n for n in nouns if OBJECTS[n].place == "sky"], (0.06, horizon - 0.08))
    far = [n for n in nouns if OBJECTS[n].place == "horizon"]
    _draw_all(canvas, far, (horizon - 0.005, horizon + 0.02))
    GROUNDS[ground].draw(canvas, horizon)
    canvas.note(*GROUNDS[ground].shows)
    water, land = GROUNDS[ground].water, GROUNDS[ground].land
    depth = 1.0 - horizon
    afloat = [n for n in nouns if OBJECTS[n].place == "water" and water is not None]
    if water is not None:
        _draw_all(canvas, afloat, (horizon + water[0] * depth, horizon + water[1] * depth))
    ashore = [n for n in nouns if OBJECTS[n].place == "ground"]
    _draw_all(canvas, ashore, (horizon + land[0] * depth, horizon + land[1] * depth))
    return sky


def _choose_objects(rng: np.random.Generator, recipe: Recipe, *, dark: bool) -> list[str]:
    """The nouns to draw, repeated for copies: the class's own, then shared distractors."""
    nouns: list[str] = []
    for noun, (chance, most) in recipe.objects.items():
        if rng.random() < chance and not (dark and noun == "sun"):
            nouns += [noun] * int(rng.integers(1, most + 1))
    extra = rng.choice(len(_COMMON), size=int(rng.integers(0, 4)), replace=False)
    return nouns + [_COMMON[int(index)] for index in extra]


def _draw_all(canvas: Canvas, nouns: list[str], span: tuple[float, float]) -> None:
    """Draw nouns whose feet lie in `span`, the farthest first; near ones are larger."""
    feet = sorted(canvas.uniform(*span) for _ in nouns)
    order = canvas.rng.permutation(len(nouns))
    for foot, index in zip(feet, order, strict=True):
        _draw_one(canvas, nouns[int(index)], foot)


def _draw_one(canvas: Canvas, noun: str, foot: float) -> None:
    thing = OBJECTS[noun]
    near = 1.0 if thing.place in ("sky", "horizon") else 0.45 + 0.62 * (foot - 0.4) / 0.6
    height = thing.height * near * canvas.uniform(0.78, 1.25)
    name = thing.colours[int(canvas.rng.integers(len(thing.colours)))]
    down = height if thing.place == "sky" else 0.0
    thing.draw(canvas, Spot(canvas.uniform(0.04, 0.96), foot + down, height), canvas.paint(name))
    canvas.note(*(thing.shows or (noun,)), name)
    canvas.things.append((noun, name))


def _develop(canvas: Canvas, sky: str) -> Image.Image:
    """Weather, light and noise of the camera."""
    rng = canvas.rng
    chance = 0.45 if sky == "grey" else 0.06
    weather = _pick(rng, {"": 1 - chance, **dict.fromkeys(WEATHER, chance / len(WEATHER))})
    if weather:
        WEATHER[weather](canvas)
        canvas.note(weather)
    tint: Colour = blend((255, 214, 170), (150, 190, 255), float(rng.random()))
    noise, blur = canvas.uniform(1.5, 9.0), max(0.0, canvas.uniform(-1.0, 0.9))
    return canvas.finish(light=canvas.uniform(0.78, 1.15), tint=tint, noise=noise, blur=blur)


_PLURALS = {
    "person": "people",
    "sheep": "sheep",
    "bush": "bushes",
    "bench": "benches",
    "cactus": "cacti",
}
_COUNTS = {2: "two", 3: "three", 4: "four"}
_TIMES = {"night": "at night", "sunset": "at sunset", "rain": "in the rain", "fog": "in fog"}


def _caption(canvas: Canvas, label: str) -> str:
    """One sentence: the class, up to three things, and when it is."""
    nouns = list(dict.fromkeys(noun for noun, _ in reversed(canvas.things)))[:3]
    things = [_counted(canvas, noun) for noun in nouns]
    listed = " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)
    words = [_with_article(label), f"with {listed}" if listed else ""]
    words += [text for word, text in _TIMES.items() if word in canvas.concepts][:1]
    return " ".join(filter(None, words))


def _counted(canvas: Canvas, noun: str) -> str:
    """`a red car`, `two boats`, `some flowers`."""
    colours = [colour for name, colour in canvas.things if name == noun]
    if len(colours) == 1:
        return _with_article(noun if noun in ("snowy peak", "person") else f"{colours[0]} {noun}")
    return f"{_COUNTS.get(len(colours), 'some')} {_PLURALS.get(noun, noun + 's')}"


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def write_concept_world(out: Path, *, num_images: int, size: int, seed: int) -> None:
    """Write `num_images` scenes as JPEG below `out/split/class/` plus `concepts.csv`.

    Scene `i` depends on `seed` and `i` alone; classes take turns and of ten scenes of a
    class seven are for training, one for validation and two for test. The folder appears
    all at once: it is written beside `out` and renamed. A complete world of the same
    settings that is already there is kept.

    Raises:
        InvalidInput: no image asked for, or `out` holds something else.
    """
    if num_images < 1:
        raise InvalidInput(f"num_images is {num_images}; a world needs at least 1 image.")
    settings = f"# scenes={num_images} size={size} seed={seed}\n"
    if _already_there(out, settings):
        return
    with writing(out), draft_of(out) as draft:
        rows = [_write_scene(draft, index, size, seed) for index in range(num_images)]
        write_bytes(draft / CONCEPTS_FILE, _table(rows).encode())
        write_bytes(draft / ".complete", settings.encode())
        if out.exists():
            out.rmdir()  # it was empty when the work began; what came since is not ours
        publish(draft, out)


def _already_there(out: Path, settings: str) -> bool:
    if not out.exists() or not any(out.iterdir()):
        return False
    mark = out / ".complete"
    if mark.is_file() and mark.read_text() == settings:
        return True
    raise InvalidInput(
        f"{out} is not empty and does not hold this concept world. "
        "Choose another directory or remove it."
    )


def _write_scene(root: Path, index: int, size: int, seed: int) -> tuple[str, str, str, str]:
    label = CLASSES[index % len(CLASSES)]
    split = _SPLIT_OF_TEN[index // len(CLASSES) % len(_SPLIT_OF_TEN)]
    scene = render_scene(np.random.default_rng([seed, index]), size, label)
    path = f"{split}/{label}/{index:06d}.jpg"
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    scene.image.save(root / path, quality=92)
    return path, label, scene.caption, ";".join(scene.concepts)


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "caption", "concepts"))
    writer.writerows(rows)
    return text.getvalue()
