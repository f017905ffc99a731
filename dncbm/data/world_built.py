"""Buildings, vehicles and other made things of the concept world.

Each function draws one thing into a `Canvas` at `at`: x is the middle, y the foot, `s` the
height, all as fractions of the side.
"""

import math

from dncbm.data.world_canvas import Canvas, Colour, Spot, blend, shade

GLASS: Colour = (186, 214, 230)
DARK: Colour = (44, 44, 50)


def balloon(c: Canvas, at: Spot, colour: Colour) -> None:
    """A balloon on a string."""
    c.line([(at.x, at.y), (at.x + at.s * 0.08, at.y - at.s * 0.55)], DARK, 0.005)
    c.ellipse((at.x, at.y - at.s * 0.72), at.s * 0.24, at.s * 0.3, colour)
    c.ellipse(
        (at.x - at.s * 0.08, at.y - at.s * 0.82), at.s * 0.05, at.s * 0.08, shade(colour, 1.4)
    )


def kite(c: Canvas, at: Spot, colour: Colour) -> None:
    """A kite with a tail."""
    x, y, s = at.x, at.y - at.s, at.s
    c.line([(x, y + s * 0.7), (x - s * 0.3, y + s), (x + s * 0.1, y + s * 1.4)], DARK, 0.005)
    c.polygon([(x, y), (x + s * 0.35, y + s * 0.3), (x, y + s * 0.8)], colour)
    c.polygon([(x, y), (x - s * 0.35, y + s * 0.3), (x, y + s * 0.8)], shade(colour, 0.75))


def house(c: Canvas, at: Spot, colour: Colour) -> None:
    """Walls, roof, door and windows."""
    x, y, s = at.x, at.y, at.s
    c.rect(x - s * 0.5, y - s * 0.6, x + s * 0.5, y, colour)
    roof = c.paint(str(c.rng.choice(["brown", "red", "grey"])))
    c.polygon(
        [(x - s * 0.6, y - s * 0.58), (x, y - s), (x + s * 0.6, y - s * 0.58)], shade(roof, 0.8)
    )
    c.rect(x - s * 0.1, y - s * 0.32, x + s * 0.1, y, shade(colour, 0.5))
    for side in (-1, 1):
        c.rect(x + side * s * 0.22, y - s * 0.46, x + side * s * 0.4, y - s * 0.28, GLASS)


def barn(c: Canvas, at: Spot, colour: Colour) -> None:
    """A barn with a crossed door."""
    x, y, s = at.x, at.y, at.s
    wall = [(x - s * 0.6, y), (x - s * 0.6, y - s * 0.55), (x - s * 0.38, y - s * 0.85), (x, y - s)]
    c.polygon([*wall, *[(2 * x - px, py) for px, py in reversed(wall)]], colour)
    c.rect(x - s * 0.2, y - s * 0.42, x + s * 0.2, y, (240, 236, 228))
    for side in (-1, 1):
        c.line(
            [(x - side * s * 0.2, y - s * 0.42), (x + side * s * 0.2, y)], shade(colour, 0.8), 0.01
        )
    c.rect(x - s * 0.09, y - s * 0.78, x + s * 0.09, y - s * 0.6, (240, 236, 228))


def building(c: Canvas, at: Spot, colour: Colour) -> None:
    """A tower with windows, some lit at night."""
    half, lit = at.s * c.uniform(0.18, 0.32), "night" in c.concepts
    c.rect(at.x - half, at.y - at.s, at.x + half, at.y, shade(colour, 0.45) if lit else colour)
    columns, rows = 4, max(3, round(at.s * 16))
    for row in range(rows):
        for column in range(columns):
            glow = lit and c.rng.random() < 0.55
            pane = (250, 220, 120) if glow else shade(colour, 0.3 if lit else 0.7)
            x = at.x - half + (column + 0.25) * 2 * half / columns
            y = at.y - at.s + (row + 0.3) * at.s / rows
            c.rect(x, y, x + half / columns, y + at.s / rows * 0.5, pane)


def lighthouse(c: Canvas, at: Spot, colour: Colour) -> None:
    """A striped tower with a lantern."""
    x, y, s = at.x, at.y, at.s
    for band in range(5):
        low, high = band * 0.16, (band + 1) * 0.16
        wide, narrow = s * (0.16 - low * 0.09), s * (0.16 - high * 0.09)
        tone = colour if band % 2 == 0 else (244, 242, 236)
        corners = [(x - wide, y - low * s), (x - narrow, y - high * s)]
        c.polygon([*corners, (x + narrow, y - high * s), (x + wide, y - low * s)], tone)
    c.rect(x - s * 0.06, y - s * 0.9, x + s * 0.06, y - s * 0.8, (250, 226, 130))
    c.polygon([(x - s * 0.1, y - s * 0.9), (x, y - s), (x + s * 0.1, y - s * 0.9)], DARK)


def boat(c: Canvas, at: Spot, colour: Colour) -> None:
    """A hull with two sails."""
    x, y, s = at.x, at.y, at.s
    hull = [
        (x - s * 0.55, y - s * 0.25),
        (x + s * 0.55, y - s * 0.25),
        (x + s * 0.38, y),
        (x - s * 0.4, y),
    ]
    c.polygon(hull, colour)
    c.line([(x, y - s * 0.25), (x, y - s)], DARK, s * 0.03)
    c.polygon(
        [(x + s * 0.04, y - s * 0.95), (x + s * 0.45, y - s * 0.32), (x + s * 0.04, y - s * 0.32)],
        (246, 244, 238),
    )
    c.polygon(
        [(x - s * 0.04, y - s * 0.85), (x - s * 0.32, y - s * 0.32), (x - s * 0.04, y - s * 0.32)],
        (222, 222, 216),
    )


def car(c: Canvas, at: Spot, colour: Colour) -> None:
    """A car seen from the side."""
    x, y, s = at.x, at.y, at.s
    c.rect(x - s * 1.1, y - s * 0.62, x + s * 1.1, y - s * 0.18, colour)
    cabin = [
        (x - s * 0.7, y - s * 0.6),
        (x - s * 0.4, y - s),
        (x + s * 0.45, y - s),
        (x + s * 0.75, y - s * 0.6),
    ]
    c.polygon(cabin, shade(colour, 0.9))
    c.polygon([(px * 0.8 + x * 0.2, py * 0.78 + (y - s * 0.6) * 0.22) for px, py in cabin], GLASS)
    c.rect(x + s * 0.98, y - s * 0.55, x + s * 1.1, y - s * 0.42, (252, 232, 150))
    for side in (-1, 1):
        c.ellipse((x + side * s * 0.62, y - s * 0.2), s * 0.22, s * 0.22, DARK)
        c.ellipse((x + side * s * 0.62, y - s * 0.2), s * 0.1, s * 0.1, (190, 190, 194))


def tractor(c: Canvas, at: Spot, colour: Colour) -> None:
    """A tractor with one large wheel."""
    x, y, s = at.x, at.y, at.s
    c.rect(x - s * 0.1, y - s * 0.65, x + s * 0.7, y - s * 0.28, colour)
    c.rect(x - s * 0.6, y - s, x, y - s * 0.35, colour)
    c.rect(x - s * 0.5, y - s * 0.92, x - s * 0.1, y - s * 0.65, GLASS)
    c.ellipse((x - s * 0.4, y - s * 0.32), s * 0.34, s * 0.34, DARK)
    c.ellipse((x - s * 0.4, y - s * 0.32), s * 0.14, s * 0.14, (230, 200, 70))
    c.ellipse((x + s * 0.5, y - s * 0.2), s * 0.2, s * 0.2, DARK)


def ball(c: Canvas, at: Spot, colour: Colour) -> None:
    """A ball with a white stripe."""
    centre, r = (at.x, at.y - at.s / 2), at.s / 2
    c.ellipse(centre, r, r, colour)
    c.ellipse(centre, r * 0.35, r, (246, 246, 240))
    c.ellipse((at.x - r * 0.4, centre[1] - r * 0.4), r * 0.16, r * 0.16, shade(colour, 1.5))


def flag(c: Canvas, at: Spot, colour: Colour) -> None:
    """A striped flag on a pole."""
    x, y, s = at.x, at.y, at.s
    c.line([(x, y), (x, y - s)], (96, 92, 90), s * 0.045)
    wave = c.uniform(-0.08, 0.08) * s
    c.polygon(
        [
            (x, y - s),
            (x + s * 0.55, y - s + wave),
            (x + s * 0.55, y - s * 0.62 + wave),
            (x, y - s * 0.62),
        ],
        colour,
    )
    c.polygon(
        [
            (x, y - s * 0.87),
            (x + s * 0.55, y - s * 0.87 + wave),
            (x + s * 0.55, y - s * 0.75 + wave),
            (x, y - s * 0.75),
        ],
        (244, 244, 240),
    )


def fence(c: Canvas, at: Spot, colour: Colour) -> None:
    """Two rails with posts."""
    width = c.uniform(0.3, 0.6)
    for height in (0.35, 0.75):
        c.rect(
            at.x - width, at.y - (height + 0.1) * at.s, at.x + width, at.y - height * at.s, colour
        )
    posts = max(4, round(2 * width / (at.s * 0.55)))
    for post in range(posts + 1):
        x = at.x - width + 2 * width * post / posts
        c.rect(x - at.s * 0.07, at.y - at.s, x + at.s * 0.07, at.y, shade(colour, 0.9))


def umbrella(c: Canvas, at: Spot, colour: Colour) -> None:
    """A striped parasol."""
    x, y, s = at.x, at.y, at.s
    c.line([(x, y), (x, y - s * 0.9)], (226, 220, 210), s * 0.045)
    for piece in range(6):
        first, second = (math.pi * (1 - (piece + k) / 6) for k in (0, 1))
        rim = [
            (x + math.cos(a) * s * 0.6, y - s * 0.6 - math.sin(a) * s * 0.08)
            for a in (first, second)
        ]
        tone = colour if piece % 2 == 0 else (244, 240, 232)
        c.polygon(
            [
                rim[0],
                (x + math.cos(first) * s * 0.35, y - s * 0.85),
                (x, y - s),
                (x + math.cos(second) * s * 0.35, y - s * 0.85),
                rim[1],
            ],
            tone,
        )


def slide(c: Canvas, at: Spot, colour: Colour) -> None:
    """A ladder with a chute."""
    x, y, s = at.x, at.y, at.s
    for dx in (-0.55, -0.3):
        c.line([(x + dx * s, y), (x + dx * s, y - s)], (110, 112, 118), s * 0.05)
    for step in range(1, 6):
        c.line(
            [(x - s * 0.55, y - step * s * 0.16), (x - s * 0.3, y - step * s * 0.16)],
            (110, 112, 118),
            s * 0.04,
        )
    c.line(
        [(x - s * 0.35, y - s * 0.9), (x + s * 0.45, y - s * 0.1), (x + s * 0.75, y - s * 0.06)],
        colour,
        s * 0.15,
    )


def swing(c: Canvas, at: Spot, colour: Colour) -> None:
    """A frame with two seats."""
    x, y, s = at.x, at.y, at.s
    for side in (-1, 1):
        for foot in (0.45, 0.75):
            c.line([(x + side * s * 0.6, y - s), (x + side * s * foot, y)], colour, s * 0.05)
    c.line([(x - s * 0.6, y - s), (x + s * 0.6, y - s)], colour, s * 0.06)
    for seat in (-0.25, 0.25):
        drift = c.uniform(-0.12, 0.12) * s
        for rope in (-0.07, 0.07):
            c.line(
                [(x + (seat + rope) * s, y - s), (x + (seat + rope) * s + drift, y - s * 0.3)],
                DARK,
                0.006,
            )
        c.rect(
            x + (seat - 0.11) * s + drift,
            y - s * 0.3,
            x + (seat + 0.11) * s + drift,
            y - s * 0.25,
            DARK,
        )


def lamp(c: Canvas, at: Spot, colour: Colour) -> None:
    """A street lamp."""
    c.line([(at.x, at.y), (at.x, at.y - at.s * 0.88)], shade(colour, 0.8), at.s * 0.04)
    c.ellipse((at.x, at.y - at.s * 0.93), at.s * 0.1, at.s * 0.1, (252, 232, 150))


def traffic_light(c: Canvas, at: Spot, colour: Colour) -> None:
    """Three lights on a post."""
    c.line([(at.x, at.y), (at.x, at.y - at.s * 0.5)], DARK, at.s * 0.06)
    c.rect(at.x - at.s * 0.12, at.y - at.s, at.x + at.s * 0.12, at.y - at.s * 0.45, colour)
    for height, tone in ((0.9, (226, 54, 46)), (0.725, (244, 200, 60)), (0.55, (70, 190, 84))):
        c.ellipse((at.x, at.y - height * at.s), at.s * 0.075, at.s * 0.075, tone)


def bench(c: Canvas, at: Spot, colour: Colour) -> None:
    """A bench of three planks."""
    x, y, s = at.x, at.y, at.s
    for low in (0.4, 0.65, 0.85):
        c.rect(x - s * 0.9, y - (low + 0.12) * s, x + s * 0.9, y - low * s, colour)
    for side in (-1, 1):
        c.rect(x + side * s * 0.7, y - s * 0.9, x + side * s * 0.78, y, DARK)


def tent(c: Canvas, at: Spot, colour: Colour) -> None:
    """A tent with an open flap."""
    x, y, s = at.x, at.y, at.s
    c.polygon([(x - s * 0.8, y), (x, y - s), (x + s * 0.8, y)], colour)
    c.polygon([(x - s * 0.2, y), (x, y - s), (x + s * 0.2, y)], shade(colour, 0.45))


def pyramid(c: Canvas, at: Spot, colour: Colour) -> None:
    """A stone pyramid."""
    x, y, s = at.x, at.y, at.s
    stone = blend(colour, (226, 190, 120), 0.7)
    c.polygon([(x - s, y), (x, y - s), (x + s, y)], stone)
    c.polygon([(x + s * 0.3, y), (x, y - s), (x + s, y)], shade(stone, 0.78))
