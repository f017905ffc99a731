"""Skies, grounds and weather of the concept world."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dncbm.data.world_canvas import Canvas, Colour, blend, shade


@dataclass(frozen=True, slots=True)
class Backdrop:
    """One kind of sky or ground and where things can stand on it."""

    draw: Callable[[Canvas, float], None]
    """Draws it, given the height of the horizon as a fraction of the side."""
    shows: tuple[str, ...]
    """The concepts that it always contains."""
    land: tuple[float, float] = (0.08, 0.95)
    """Where feet may stand, as fractions from the horizon (0) to the lower edge (1)."""
    water: tuple[float, float] | None = None
    """Where boats may float, likewise."""


def _day(c: Canvas, horizon: float) -> None:
    top = c.paint("blue")
    c.gradient(0, horizon, blend(top, (120, 190, 250), 0.55), (214, 234, 248))


def _sunset(c: Canvas, horizon: float) -> None:
    top, low = c.paint("purple"), c.paint("orange")
    c.gradient(0, horizon * 0.5, blend(top, (80, 90, 160), 0.4), blend(c.paint("pink"), low, 0.3))
    c.gradient(
        horizon * 0.5, horizon, blend(c.paint("pink"), low, 0.3), blend(low, (255, 220, 130), 0.5)
    )


def _grey(c: Canvas, horizon: float) -> None:
    tone = c.paint("grey")
    c.gradient(0, horizon, tone, shade(tone, 1.45))


def _night(c: Canvas, horizon: float) -> None:
    c.gradient(0, horizon, (10, 14, 38), (40, 48, 92))
    for _ in range(int(c.rng.integers(14, 40))):
        r = c.uniform(0.003, 0.008)
        c.ellipse((c.uniform(0, 1), c.uniform(0, horizon * 0.9)), r, r, (250, 246, 220))


def _night_light(c: Canvas, colour: Colour) -> Colour:
    """Ground colours are darker and bluer at night."""
    return blend(shade(colour, 0.5), (20, 28, 66), 0.3) if "night" in c.concepts else colour


def _speckle(c: Canvas, top: float, colour: Colour, count: int, length: float) -> None:
    """Short upright strokes or dots that give the ground a texture."""
    for _ in range(count):
        x, y = c.uniform(0, 1), c.uniform(top + 0.01, 1)
        tall = length * (0.4 + y - top)
        c.line(
            [(x, y), (x + c.uniform(-0.3, 0.3) * tall, y - tall)],
            shade(colour, c.uniform(0.7, 1.25)),
            0.006,
        )


def _grass(c: Canvas, horizon: float) -> None:
    tone = _night_light(c, c.paint("green", 22))
    c.gradient(horizon, 1, shade(tone, 1.3), tone)
    _speckle(c, horizon, tone, 70, 0.05)


def _sand(c: Canvas, horizon: float) -> None:
    tone = _night_light(c, blend(c.paint("yellow", 8), (226, 196, 150), 0.75))
    c.gradient(horizon, 1, tone, shade(tone, 0.88))
    _speckle(c, horizon, tone, 60, 0.008)
    for _ in range(int(c.rng.integers(1, 4))):
        y, x, wide = c.uniform(horizon + 0.05, 0.95), c.uniform(0, 1), c.uniform(0.1, 0.35)
        c.line([(x - wide, y), (x, y - 0.02), (x + wide, y)], shade(tone, 0.86), 0.008)


def _snow(c: Canvas, horizon: float) -> None:
    tone = _night_light(c, (236, 241, 250))
    c.gradient(horizon, 1, tone, shade(tone, 0.93))
    for _ in range(4):
        centre = (c.uniform(0, 1), c.uniform(horizon + 0.1, 1))
        c.ellipse(centre, c.uniform(0.1, 0.3), 0.025, shade(tone, c.uniform(0.93, 1.02)))


def _water_band(c: Canvas, top: float, bottom: float) -> None:
    tone = _night_light(c, blend(c.paint("blue"), (40, 140, 180), c.uniform(0, 0.6)))
    c.gradient(top, bottom, shade(tone, 1.15), shade(tone, 0.9))
    for _ in range(int(60 * (bottom - top)) + 6):
        y, x = c.uniform(top + 0.01, bottom), c.uniform(0, 1)
        wide = c.uniform(0.02, 0.07)
        points = [
            (x - wide, y),
            (x - wide / 2, y - 0.008),
            (x, y),
            (x + wide / 2, y - 0.008),
            (x + wide, y),
        ]
        c.line(points, blend(tone, (255, 255, 255), c.uniform(0.2, 0.5)), 0.005)


def _water(c: Canvas, horizon: float) -> None:
    _water_band(c, horizon, 1.0)


def _shore(c: Canvas, horizon: float) -> None:
    """Water up to a wavy shore line, sand before it."""
    _water_band(c, horizon, 1.0)
    line = horizon + (1 - horizon) * 0.42
    tone = _night_light(c, blend(c.paint("yellow", 8), (230, 204, 160), 0.75))
    phase, swing = c.uniform(0, 6), c.uniform(0.008, 0.025)
    wave = [(x / 24, line + swing * math.sin(phase + x / 3.2)) for x in range(25)]
    c.polygon(
        [*[(x, y - 0.018) for x, y in wave], (1, 1), (0, 1)], blend(tone, (255, 255, 255), 0.75)
    )
    c.polygon([*wave, (1, 1), (0, 1)], tone)
    _speckle(c, line + 0.02, tone, 40, 0.008)


def _quay(c: Canvas, horizon: float) -> None:
    """Water behind a stone quay."""
    _water_band(c, horizon, 1.0)
    edge = horizon + (1 - horizon) * 0.72
    tone = _night_light(c, blend(c.paint("grey"), c.paint("brown"), c.uniform(0, 0.8)))
    c.gradient(edge, 1, shade(tone, 1.15), tone)
    c.rect(0, edge, 1, edge + 0.02, shade(tone, 1.35))
    for x in range(9):
        c.line([(x / 8, edge + 0.02), (x / 8 + (x / 8 - 0.5) * 0.2, 1)], shade(tone, 0.8), 0.006)


def _road(c: Canvas, horizon: float) -> None:
    tone = _night_light(c, c.paint("grey"))
    c.gradient(horizon, 1, shade(tone, 1.2), shade(tone, 1.1))
    top, bottom = horizon + (1 - horizon) * 0.3, horizon + (1 - horizon) * 0.95
    c.gradient(top, bottom, shade(tone, 0.55), shade(tone, 0.65))
    middle, shift = (top + bottom) / 2, c.uniform(0, 0.15)
    for dash in range(-1, 7):
        x = dash * 0.17 + shift
        c.rect(x, middle - 0.008, x + 0.09, middle + 0.008, _night_light(c, (240, 236, 220)))


def _field(c: Canvas, horizon: float) -> None:
    """Ploughed rows that meet at the horizon."""
    first, second = (
        c.paint("brown"),
        blend(c.paint("green"), c.paint("yellow"), c.uniform(0.1, 0.8)),
    )
    c.gradient(horizon, 1, _night_light(c, shade(second, 1.1)), _night_light(c, second))
    eye = c.uniform(0.3, 0.7)
    for row in range(-9, 10):
        foot = eye + row * 0.17
        c.polygon(
            [(eye + row * 0.02, horizon), (foot, 1), (foot + 0.08, 1)],
            _night_light(c, shade(first, 1.1)),
        )


def _rain(c: Canvas) -> None:
    slope = c.uniform(-0.02, 0.02)
    for _ in range(90):
        x, y = c.uniform(0, 1), c.uniform(0, 1)
        c.line([(x, y), (x + slope, y + 0.045)], (196, 210, 226), 0.005)


def _fog(c: Canvas) -> None:
    c.haze(_night_light(c, (214, 218, 222)), c.uniform(0.35, 0.62))


def _snowfall(c: Canvas) -> None:
    for _ in range(70):
        r = c.uniform(0.005, 0.011)
        c.ellipse((c.uniform(0, 1), c.uniform(0, 1)), r, r, (248, 250, 254))


SKIES: dict[str, Backdrop] = {
    "day": Backdrop(_day, ("sky", "blue")),
    "sunset": Backdrop(_sunset, ("sky", "sunset", "orange")),
    "grey": Backdrop(_grey, ("sky", "grey")),
    "night": Backdrop(_night, ("sky", "night", "star")),
}

GROUNDS: dict[str, Backdrop] = {
    "grass": Backdrop(_grass, ("grass", "green")),
    "sand": Backdrop(_sand, ("sand",)),
    "snow": Backdrop(_snow, ("snow", "white")),
    "water": Backdrop(_water, ("water", "blue"), (0.02, 0.06), (0.1, 0.9)),
    "shore": Backdrop(_shore, ("water", "sand"), (0.5, 0.95), (0.1, 0.36)),
    "quay": Backdrop(_quay, ("water", "stone"), (0.8, 0.96), (0.1, 0.66)),
    "road": Backdrop(_road, ("road",), (0.12, 0.95)),
    "field": Backdrop(_field, ("field",)),
}

WEATHER: dict[str, Callable[[Canvas], None]] = {"rain": _rain, "fog": _fog, "snow": _snowfall}
