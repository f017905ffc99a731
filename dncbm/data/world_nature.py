"""Plants, rocks, lights in the sky and living beings of the concept world.

Each function draws one thing into a `Canvas` at `at`: x is the middle, y the foot, `s` the
height, all as fractions of the side.
"""

import math

from dncbm.data.world_canvas import Canvas, Colour, Spot, blend, shade

WOOD: Colour = (110, 76, 48)
SKIN: tuple[Colour, ...] = ((236, 196, 160), (198, 140, 100), (122, 82, 58))
DARK: Colour = (44, 44, 50)


def sun(c: Canvas, at: Spot, colour: Colour) -> None:
    """A disc with twelve rays."""
    centre = (at.x, at.y - at.s / 2)
    for turn in range(12):
        angle = turn * math.pi / 6
        tip = (centre[0] + math.cos(angle) * at.s * 0.8, centre[1] + math.sin(angle) * at.s * 0.8)
        c.line([centre, tip], blend(colour, (255, 255, 255), 0.3), at.s * 0.06)
    c.ellipse(centre, at.s / 2, at.s / 2, colour)


def moon(c: Canvas, at: Spot, colour: Colour) -> None:
    """A disc with craters."""
    centre = (at.x, at.y - at.s / 2)
    c.ellipse(centre, at.s / 2, at.s / 2, colour)
    for _ in range(3):
        x, y = c.uniform(-0.25, 0.25) * at.s, c.uniform(-0.25, 0.25) * at.s
        c.ellipse((centre[0] + x, centre[1] + y), at.s * 0.07, at.s * 0.06, shade(colour, 0.85))


def cloud(c: Canvas, at: Spot, colour: Colour) -> None:
    """Five overlapping puffs."""
    for offset, radius in ((-0.9, 0.36), (-0.4, 0.5), (0.2, 0.56), (0.75, 0.42), (1.1, 0.26)):
        x, y = at.x + offset * at.s, at.y - radius * at.s * c.uniform(0.7, 1.0)
        c.ellipse(
            (x, y), radius * at.s * 1.2, radius * at.s * 0.8, shade(colour, 1 - 0.03 * offset)
        )


def bird(c: Canvas, at: Spot, colour: Colour) -> None:
    """Two wings seen from afar."""
    for side in (-1, 1):
        tip = (at.x + side * at.s * 1.1, at.y - at.s * c.uniform(0.4, 0.8))
        middle = (at.x + side * at.s * 0.5, at.y - at.s * 0.75)
        c.line([(at.x, at.y), middle, tip], colour, at.s * 0.22)


def mountain(c: Canvas, at: Spot, colour: Colour) -> None:
    """A two-sided mountain."""
    width, lean = at.s * c.uniform(0.8, 1.2), at.s * c.uniform(-0.2, 0.2)
    peak = (at.x + lean, at.y - at.s)
    c.polygon([(at.x - width, at.y), peak, (at.x + width, at.y)], colour)
    c.polygon([(at.x + lean * 0.3, at.y), peak, (at.x + width, at.y)], shade(colour, 0.8))


def snowy_peak(c: Canvas, at: Spot, colour: Colour) -> None:
    """A mountain with a white top."""
    width, x, top = at.s * c.uniform(0.75, 1.1), at.x, at.y - at.s
    c.polygon([(x - width, at.y), (x, top), (x + width, at.y)], colour)
    c.polygon([(x, at.y), (x, top), (x + width, at.y)], shade(colour, 0.82))
    cut, side = c.uniform(0.35, 0.55), width
    snow = [(x - side * cut, top + at.s * cut), (x, top), (x + side * cut, top + at.s * cut)]
    teeth = [
        (x + side * cut * f, top + at.s * cut * g) for f, g in ((0.4, 0.75), (0, 1.1), (-0.5, 0.8))
    ]
    c.polygon([*snow, *teeth], (244, 247, 252))


def tree(c: Canvas, at: Spot, colour: Colour) -> None:
    """A round crown on a trunk."""
    c.rect(at.x - at.s * 0.06, at.y - at.s * 0.5, at.x + at.s * 0.06, at.y, WOOD)
    for dx, dy, r in ((-0.2, 0.5, 0.24), (0.2, 0.52, 0.24), (0.0, 0.74, 0.28), (0.0, 0.55, 0.26)):
        tone = shade(colour, c.uniform(0.88, 1.12))
        c.ellipse((at.x + dx * at.s, at.y - dy * at.s), r * at.s, r * at.s * 0.95, tone)


def pine(c: Canvas, at: Spot, colour: Colour) -> None:
    """Three tiers of needles."""
    c.rect(at.x - at.s * 0.05, at.y - at.s * 0.2, at.x + at.s * 0.05, at.y, WOOD)
    dark = shade(colour, 0.72)
    for low, high, half in ((0.15, 0.55, 0.32), (0.38, 0.78, 0.25), (0.6, 1.0, 0.18)):
        foot, top = at.y - low * at.s, at.y - high * at.s
        c.polygon([(at.x - half * at.s, foot), (at.x, top), (at.x + half * at.s, foot)], dark)
        c.polygon([(at.x, foot), (at.x, top), (at.x + half * at.s, foot)], shade(dark, 0.85))


def palm(c: Canvas, at: Spot, colour: Colour) -> None:
    """A leaning trunk with leaves."""
    lean = at.s * c.uniform(-0.25, 0.25)
    top = (at.x + lean, at.y - at.s * 0.8)
    c.line([(at.x, at.y), (at.x + lean * 0.3, at.y - at.s * 0.4), top], WOOD, at.s * 0.07)
    for turn in range(7):
        angle = math.pi * (0.95 + 1.1 * turn / 6)
        dx, dy = math.cos(angle) * at.s * 0.42, math.sin(angle) * at.s * 0.3
        end = (top[0] + dx, top[1] + dy + at.s * 0.14)
        c.line([top, (top[0] + dx * 0.6, top[1] + dy), end], colour, at.s * 0.06)


def bush(c: Canvas, at: Spot, colour: Colour) -> None:
    """Three low puffs."""
    for dx, r in ((-0.6, 0.45), (0.6, 0.45), (0.0, 0.6)):
        c.ellipse(
            (at.x + dx * at.s, at.y - r * at.s),
            r * at.s,
            r * at.s,
            shade(colour, c.uniform(0.8, 1)),
        )


def cactus(c: Canvas, at: Spot, colour: Colour) -> None:
    """A column with two arms."""
    width = at.s * 0.15
    c.line([(at.x, at.y), (at.x, at.y - at.s * 0.93)], colour, width)
    c.ellipse((at.x, at.y - at.s * 0.93), width / 2, width / 2, colour)
    for side in (-1, 1):
        low = c.uniform(0.3, 0.5)
        elbow, x = (at.x + side * at.s * 0.25, at.y - low * at.s), at.x
        hand = (elbow[0], elbow[1] - at.s * 0.28)
        c.line([(x, elbow[1]), elbow, hand], colour, width * 0.75)
        c.ellipse(hand, width * 0.37, width * 0.37, colour)


def flower(c: Canvas, at: Spot, colour: Colour) -> None:
    """Six petals on a stem."""
    head = (at.x, at.y - at.s * 0.8)
    c.line([(at.x, at.y), head], (58, 120, 52), at.s * 0.07)
    c.ellipse((at.x + at.s * 0.14, at.y - at.s * 0.3), at.s * 0.13, at.s * 0.06, (58, 120, 52))
    for turn in range(6):
        angle = turn * math.pi / 3
        petal = (head[0] + math.cos(angle) * at.s * 0.16, head[1] + math.sin(angle) * at.s * 0.16)
        c.ellipse(petal, at.s * 0.13, at.s * 0.13, colour)
    c.ellipse(head, at.s * 0.1, at.s * 0.1, shade(colour, 0.55))


def mushroom(c: Canvas, at: Spot, colour: Colour) -> None:
    """A dotted cap on a foot."""
    c.rect(at.x - at.s * 0.14, at.y - at.s * 0.5, at.x + at.s * 0.14, at.y, (236, 226, 206))
    cap = [
        (at.x + math.cos(a) * at.s * 0.5, at.y - at.s * 0.45 - math.sin(a) * at.s * 0.5)
        for a in (i * math.pi / 10 for i in range(11))
    ]
    c.polygon(cap, colour)
    for dx, dy in ((-0.22, 0.6), (0.05, 0.78), (0.25, 0.58)):
        c.ellipse((at.x + dx * at.s, at.y - dy * at.s), at.s * 0.07, at.s * 0.06, (246, 240, 232))


def rock(c: Canvas, at: Spot, colour: Colour) -> None:
    """A grey lump with a shadow side."""
    x, y, s = at.x, at.y, at.s
    c.polygon([(x - s, y), (x - s * 0.6, y - s * 0.8), (x + s * 0.2, y - s), (x + s, y)], colour)
    c.polygon([(x + s * 0.2, y - s), (x + s, y), (x - s * 0.1, y)], shade(colour, 0.78))


def person(c: Canvas, at: Spot, colour: Colour) -> None:
    """A standing person; the colour is the shirt."""
    x, y, s = at.x, at.y, at.s
    skin = SKIN[int(c.rng.integers(len(SKIN)))]
    for side in (-1, 1):
        c.line([(x, y - s * 0.4), (x + side * s * 0.1, y)], (52, 58, 88), s * 0.09)
        c.line(
            [(x, y - s * 0.7), (x + side * s * c.uniform(0.18, 0.26), y - s * c.uniform(0.4, 0.9))],
            skin,
            s * 0.07,
        )
    c.rect(x - s * 0.12, y - s * 0.75, x + s * 0.12, y - s * 0.36, colour)
    c.ellipse((x, y - s * 0.87), s * 0.11, s * 0.12, skin)


def sheep(c: Canvas, at: Spot, colour: Colour) -> None:
    """A woolly body and a dark head."""
    x, y, s = at.x, at.y, at.s
    for dx in (-0.35, -0.15, 0.2, 0.4):
        c.rect(x + dx * s, y - s * 0.35, x + (dx + 0.08) * s, y, DARK)
    for dx, dy in ((-0.4, 0.5), (0.0, 0.42), (0.4, 0.5), (-0.2, 0.68), (0.2, 0.68)):
        c.ellipse((x + dx * s, y - dy * s), s * 0.3, s * 0.26, colour)
    c.ellipse((x + s * 0.72, y - s * 0.66), s * 0.18, s * 0.22, DARK)


def snowman(c: Canvas, at: Spot, colour: Colour) -> None:
    """Three balls of snow; the colour is the scarf."""
    x, y, s = at.x, at.y, at.s
    for height, r in ((0.22, 0.24), (0.57, 0.18), (0.83, 0.13)):
        c.ellipse((x + 0.01 * s, y - height * s), r * s, r * s, (206, 214, 228))
        c.ellipse((x, y - height * s), r * s * 0.95, r * s * 0.95, (250, 251, 254))
    c.polygon([(x, y - s * 0.85), (x, y - s * 0.8), (x + s * 0.16, y - s * 0.81)], (238, 132, 36))
    c.line([(x - s * 0.14, y - s * 0.7), (x + s * 0.14, y - s * 0.7)], colour, s * 0.07)
    for side in (-0.05, 0.05):
        c.ellipse((x + side * s, y - s * 0.87), s * 0.02, s * 0.02, DARK)
