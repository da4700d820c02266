"""Renders machined parts as a grey camera above the line sees them, sound or with one defect.

Every part is brushed metal under a lamp that stands somewhere else each time. Some have a chamfered edge or
a drilled hole: both look like trouble and are none, so a classifier has to learn what a defect is and not
merely that something is there.
"""

import numpy as np

SIZE = 64
CLASSES = ["ok", "scratch", "dent", "stain", "crack"]

ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
FREQUENCY_Y = np.fft.fftfreq(SIZE)[:, None]
FREQUENCY_X = np.fft.rfftfreq(SIZE)[None, :]


def render(label, chance):
    """One part as [64, 64] bytes; `label` is an index into CLASSES."""
    lamp = chance.uniform(0, 2 * np.pi)
    picture = metal(lamp, chance)
    if chance.random() < 0.3:
        picture = chamfer(picture, chance)
    if chance.random() < 0.2:
        picture = hole(picture, lamp, chance)
    defect = CLASSES[label]
    if defect == "scratch":
        picture = scratch(picture, chance)
    elif defect == "dent":
        picture = dent(picture, lamp, chance)
    elif defect == "stain":
        picture = stain(picture, chance)
    elif defect == "crack":
        picture = crack(picture, chance)
    picture = picture + chance.normal(0, chance.uniform(0.005, 0.015), picture.shape)  # The camera's own noise.
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def render_many(count, chance):
    """`count` parts with their labels; the classes take turns."""
    labels = np.arange(count) % len(CLASSES)
    return np.stack([render(label, chance) for label in labels]), labels


def metal(lamp, chance):
    """Brushed along one direction, brighter towards the lamp."""
    brush = chance.uniform(0, np.pi)
    along = FREQUENCY_X * np.cos(brush) + FREQUENCY_Y * np.sin(brush)
    across = FREQUENCY_Y * np.cos(brush) - FREQUENCY_X * np.sin(brush)
    grain = smooth(np.exp(-((along * chance.uniform(30, 60)) ** 2) - (across * 1.5) ** 2), chance)
    towards = ((COLUMNS - SIZE / 2) * np.cos(lamp) + (ROWS - SIZE / 2) * np.sin(lamp)) / SIZE
    light = chance.uniform(0.45, 0.7) + chance.uniform(0.0, 0.3) * towards
    return light * (1 + chance.uniform(0.02, 0.05) * grain)


def chamfer(picture, chance):
    """A straight edge of the part: a bright bevel, and the dark bench beyond it."""
    angle, distance = chance.uniform(0, 2 * np.pi), chance.uniform(23, 30)
    beyond = (COLUMNS - SIZE / 2) * np.cos(angle) + (ROWS - SIZE / 2) * np.sin(angle) - distance
    width = chance.uniform(2, 4)
    bevel, bench = soft_step(beyond), soft_step(beyond - width)
    picture = picture * (1 + chance.uniform(-0.2, 0.25) * bevel)
    return picture * (1 - bench) + chance.uniform(0.08, 0.2) * bench


def hole(picture, lamp, chance):
    """A drilled hole: a dark disc, its far rim catching the light."""
    y, x = somewhere(14, chance)
    radius = chance.uniform(3, 5)
    distance, angle = np.hypot(ROWS - y, COLUMNS - x), np.arctan2(ROWS - y, COLUMNS - x)
    inside = soft_step(radius - distance)
    rim = np.exp(-((distance - radius - 0.5) ** 2)) * np.maximum(0, np.cos(angle - lamp - np.pi))
    return picture * (1 - 0.85 * inside) + 0.2 * rim


def scratch(picture, chance):
    """A thin, nearly straight line that fades at its ends; bright where it shines, dark where it shadows."""
    y, x = somewhere(20, chance)
    angle, half, bend = chance.uniform(0, np.pi), chance.uniform(12, 24), chance.normal(0, 2)
    t = np.linspace(-1, 1, 13)
    points = np.stack(
        [
            y + half * t * np.sin(angle) + bend * (1 - t * t) * np.cos(angle),
            x + half * t * np.cos(angle) - bend * (1 - t * t) * np.sin(angle),
        ],
        axis=1,
    )
    line = stroke(points, np.full(len(points), chance.uniform(0.5, 0.85)))
    fade = np.clip((half - np.abs((COLUMNS - x) * np.cos(angle) + (ROWS - y) * np.sin(angle))) / 5, 0.3, 1)
    depth = chance.uniform(0.2, 0.4) * (1 if chance.random() < 0.65 else -1)
    shadow = np.roll(line, (1, 1), axis=(0, 1))
    return picture + depth * fade * (line - 0.3 * shadow)


def dent(picture, lamp, chance):
    """A shallow hollow: its wall near the lamp in shade, its far wall bright, with a small highlight."""
    y, x = somewhere(16, chance)
    radius, stretch, turn = chance.uniform(5, 10), chance.uniform(0.75, 1.3), chance.uniform(0, np.pi)
    u = ((COLUMNS - x) * np.cos(turn) + (ROWS - y) * np.sin(turn)) / (radius * stretch)
    v = ((ROWS - y) * np.cos(turn) - (COLUMNS - x) * np.sin(turn)) / (radius / stretch)
    towards = ((COLUMNS - x) * np.cos(lamp) + (ROWS - y) * np.sin(lamp)) / radius
    bowl = np.exp(-(u * u + v * v))
    glint_y, glint_x = y - 0.7 * radius * np.sin(lamp), x - 0.7 * radius * np.cos(lamp)
    glint = np.exp(-((ROWS - glint_y) ** 2 + (COLUMNS - glint_x) ** 2) / (0.25 * radius) ** 2)
    depth = chance.uniform(0.22, 0.42)
    return picture * (1 - depth * 1.6 * towards * bowl - 0.3 * depth * bowl) + 0.5 * depth * glint


def stain(picture, chance):
    """An irregular patch of oil: darker, smooth, some with a ring where it dried."""
    y, x = somewhere(18, chance)
    radius = chance.uniform(7, 14)
    wobble = smooth(np.exp(-((FREQUENCY_X**2 + FREQUENCY_Y**2) * 14**2)), chance)
    distance = np.hypot(ROWS - y, COLUMNS - x) / radius + 0.3 * wobble
    patch = soft_step((1 - distance) * radius / chance.uniform(1.2, 3))
    ring = np.exp(-(((distance - 0.95) * radius / 1.5) ** 2)) if chance.random() < 0.4 else 0
    depth = chance.uniform(0.16, 0.38)
    return picture * (1 - depth * patch * (1 + 0.2 * wobble) - 0.25 * depth * ring)


def crack(picture, chance):
    """A dark, jagged line that tapers and branches."""
    y, x = somewhere(22, chance)
    heading = chance.uniform(0, 2 * np.pi)
    trunk = walk(y, x, heading, chance.integers(9, 15), chance)
    width = chance.uniform(0.6, 0.95)
    dark = stroke(trunk, np.linspace(width, 0.45 * width, len(trunk)))
    for _ in range(chance.integers(1, 4)):
        start = trunk[chance.integers(2, len(trunk) - 3)]
        turn = chance.uniform(0.5, 1.2) * chance.choice([-1, 1])
        branch = walk(*start, heading + turn, chance.integers(3, 8), chance)
        dark = np.maximum(dark, stroke(branch, np.linspace(0.7 * width, 0.4 * width, len(branch))))
    return picture * (1 - chance.uniform(0.4, 0.7) * dark)


def walk(y, x, heading, steps, chance):
    """Corner points of a jagged path."""
    angles = heading + chance.normal(0, 0.7, steps)
    lengths = chance.uniform(1.8, 4.2, steps)
    moves = np.stack([np.sin(angles) * lengths, np.cos(angles) * lengths], axis=1)
    return np.concatenate([[[y, x]], [y, x] + np.cumsum(moves, axis=0)])


def stroke(points, widths):
    """Draws a path through `points` with soft borders; `widths` are in pixels, one per point."""
    start, along = points[:-1], np.diff(points, axis=0)
    offset = np.stack([ROWS, COLUMNS], axis=-1)[None] - start[:, None, None]
    length = (along**2).sum(1)[:, None, None] + 1e-9
    t = np.clip((offset * along[:, None, None]).sum(-1) / length, 0, 1)
    distance = ((offset - t[..., None] * along[:, None, None]) ** 2).sum(-1)
    width = widths[:-1, None, None] * (1 - t) + widths[1:, None, None] * t
    return np.exp(-distance / (2 * width**2)).max(0)


def somewhere(margin, chance):
    """A point at least `margin` pixels inside the picture."""
    return chance.uniform(margin, SIZE - margin, 2)


def smooth(filter, chance):
    """White noise through `filter`, which is given by frequency; mean 0, deviation 1."""
    noise = np.fft.irfft2(np.fft.rfft2(chance.standard_normal((SIZE, SIZE))) * filter, (SIZE, SIZE))
    return (noise - noise.mean()) / (noise.std() + 1e-9)


def soft_step(x):
    """0 below zero, 1 above, with a border about two pixels wide."""
    return 1 / (1 + np.exp(np.clip(-2 * x, -50, 50)))
