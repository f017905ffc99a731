"""What can stand in the concept world: each noun's drawing, colours, height and place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dncbm.data import world_built as built
from dncbm.data import world_nature as nature
from dncbm.data.world_canvas import Canvas, Colour, Spot

Place = Literal["sky", "horizon", "water", "ground"]


@dataclass(frozen=True, slots=True)
class Thing:
    """How one noun is drawn."""

    draw: Callable[[Canvas, Spot, Colour], None]
    colours: tuple[str, ...]
    height: float
    """Height as a fraction of the side when it stands at the front."""
    place: Place
    shows: tuple[str, ...] = ()
    """The nouns to record where they differ from the key."""


BRIGHT = ("red", "orange", "yellow", "blue", "purple", "pink", "white", "green")

OBJECTS: dict[str, Thing] = {
    "sun": Thing(nature.sun, ("yellow", "orange"), 0.16, "sky"),
    "moon": Thing(nature.moon, ("white", "yellow"), 0.14, "sky"),
    "cloud": Thing(nature.cloud, ("white", "white", "grey"), 0.1, "sky"),
    "bird": Thing(nature.bird, ("black", "white", "grey"), 0.045, "sky"),
    "balloon": Thing(built.balloon, BRIGHT, 0.26, "sky"),
    "kite": Thing(built.kite, BRIGHT, 0.17, "sky"),
    "mountain": Thing(nature.mountain, ("grey", "brown", "green", "blue"), 0.34, "horizon"),
    "snowy peak": Thing(
        nature.snowy_peak, ("grey", "blue", "grey"), 0.5, "horizon", ("mountain", "snow")
    ),
    "tree": Thing(nature.tree, ("green", "green", "green", "orange", "yellow"), 0.42, "ground"),
    "pine": Thing(nature.pine, ("green",), 0.46, "ground"),
    "palm": Thing(nature.palm, ("green",), 0.5, "ground"),
    "bush": Thing(nature.bush, ("green",), 0.12, "ground"),
    "cactus": Thing(nature.cactus, ("green",), 0.34, "ground"),
    "flower": Thing(
        nature.flower, ("red", "yellow", "pink", "purple", "white", "orange"), 0.2, "ground"
    ),
    "mushroom": Thing(nature.mushroom, ("red", "brown", "orange"), 0.13, "ground"),
    "rock": Thing(nature.rock, ("grey", "brown"), 0.08, "ground"),
    "house": Thing(
        built.house, ("white", "yellow", "red", "blue", "pink", "brown"), 0.36, "ground"
    ),
    "barn": Thing(built.barn, ("red", "red", "brown"), 0.4, "ground"),
    "building": Thing(built.building, ("grey", "brown", "blue", "red", "white"), 0.55, "horizon"),
    "lighthouse": Thing(built.lighthouse, ("red", "blue", "black"), 0.5, "horizon"),
    "boat": Thing(built.boat, BRIGHT, 0.26, "water"),
    "car": Thing(built.car, BRIGHT + ("black", "grey"), 0.14, "ground"),
    "tractor": Thing(built.tractor, ("red", "green", "blue"), 0.22, "ground"),
    "person": Thing(nature.person, BRIGHT, 0.27, "ground"),
    "ball": Thing(built.ball, ("red", "blue", "green", "orange", "yellow", "pink"), 0.11, "ground"),
    "flag": Thing(built.flag, ("red", "blue", "green", "orange", "yellow"), 0.36, "ground"),
    "fence": Thing(built.fence, ("brown", "white"), 0.14, "ground"),
    "umbrella": Thing(
        built.umbrella, ("red", "blue", "green", "orange", "yellow", "pink"), 0.34, "ground"
    ),
    "slide": Thing(built.slide, ("red", "blue", "yellow", "green", "orange"), 0.36, "ground"),
    "swing": Thing(built.swing, ("red", "blue", "yellow", "green", "grey"), 0.4, "ground"),
    "sheep": Thing(nature.sheep, ("white", "white", "grey"), 0.13, "ground"),
    "lamp": Thing(built.lamp, ("black", "grey", "green"), 0.42, "ground"),
    "traffic light": Thing(built.traffic_light, ("black", "yellow"), 0.36, "ground"),
    "bench": Thing(built.bench, ("brown", "green", "red"), 0.12, "ground"),
    "snowman": Thing(nature.snowman, ("red", "blue", "green"), 0.28, "ground"),
    "tent": Thing(built.tent, ("orange", "red", "blue", "green", "yellow"), 0.22, "ground"),
    "pyramid": Thing(built.pyramid, ("yellow", "brown"), 0.28, "horizon"),
}
