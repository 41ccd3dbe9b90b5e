"""The pictures and captions of the demo: scikit-learn's handwritten digits and rendered coloured shapes.

Everything is a function of a seed. Training pictures never come from the validation split: digits are split
once by a fixed permutation, shapes are drawn from different random streams.
"""

import io

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

SEED = 20261124
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SHAPES = ["circle", "square", "triangle", "star", "cross"]
COLOURS = {
    "red": (214, 40, 40),
    "green": (42, 157, 70),
    "blue": (35, 87, 210),
    "yellow": (245, 208, 30),
    "purple": (130, 50, 170),
    "orange": (247, 127, 0),
}
CLASSES = DIGITS + [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
VALID_DIGITS = 500  # of 1797; the rest is training

# What the captions of training look like; the last three are the templates of the published validation.
TEMPLATES = [
    "{text}",
    "a {text}",
    "a picture of {text}",
    "a photo of a {text}",
    "an image of the {text}",
    "this is {text}",
    "A photo of {text}.",
    "This is a photo containing images of {text}.",
    "This is a photo from ImageNet's {text} category. This category contains photos of {text}.",
]


def digit_split():
    """(train images, train labels, valid images, valid labels); images [n,8,8] in 0..16."""
    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.target))
    valid, train = order[:VALID_DIGITS], order[VALID_DIGITS:]
    return data.images[train], data.target[train], data.images[valid], data.target[valid]


def through_jpeg(image, quality):
    """The picture after a JPEG round trip."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def render_digit(pixels, rng=None):
    """A digit as a picture: light on dark; with `rng` in other colours, turned, shifted and scaled."""
    grey = Image.fromarray((pixels * (255 / 16)).astype(np.uint8))
    if rng is None:
        return grey.resize((96, 96), Image.BICUBIC).convert("RGB")
    side = int(rng.integers(64, 129))
    inner = int(side * rng.uniform(0.7, 1.05))
    height = max(8, int(inner * rng.uniform(0.88, 1.12)))
    digit = grey.resize((inner, height), Image.BICUBIC).rotate(rng.uniform(-14, 14), Image.BICUBIC, expand=True)
    canvas = Image.new("L", (side, side), 0)
    slack = side * 0.09
    canvas.paste(
        digit,
        (
            int((side - digit.width) / 2 + rng.uniform(-slack, slack)),
            int((side - digit.height) / 2 + rng.uniform(-slack, slack)),
        ),
    )
    strength = np.asarray(canvas, dtype=np.float32)[..., None] / 255 * rng.uniform(0.7, 1.2)
    strength = np.clip(strength, 0, 1)
    style = rng.random()
    if style < 0.6:
        paper, ink = np.zeros(3), np.full(3, 255.0)
    elif style < 0.8:
        paper, ink = np.full(3, 255.0), np.zeros(3)
    else:
        paper, ink = rng.uniform(0, 90, 3), rng.uniform(150, 255, 3)
        if rng.random() < 0.5:
            paper, ink = ink, paper
    rgb = paper + strength * (ink - paper) + rng.normal(0, rng.uniform(0, 10), (side, side, 3))
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def _points(shape, radius):
    if shape == "square":
        return [(radius * 1.2 * np.cos(a), radius * 1.2 * np.sin(a)) for a in np.pi / 4 + np.arange(4) * np.pi / 2]
    if shape == "triangle":
        return [(radius * 1.2 * np.cos(a), radius * 1.2 * np.sin(a)) for a in -np.pi / 2 + np.arange(3) * 2 * np.pi / 3]
    if shape == "star":
        radii = [radius * 1.2, radius * 0.48] * 5
        return [(r * np.cos(a), r * np.sin(a)) for r, a in zip(radii, -np.pi / 2 + np.arange(10) * np.pi / 5)]
    arm, thick = radius * 1.1, radius * 0.38
    outline = [(thick, arm), (thick, thick), (arm, thick), (arm, -thick), (thick, -thick), (thick, -arm)]
    return outline + [(-x, -y) for x, y in outline]


def render_shape(colour, shape, rng, side=None):
    """A coloured shape on a plain or speckled ground, anywhere, any size, slightly turned."""
    side = side or int(rng.integers(64, 161))
    ground = np.full(3, rng.uniform(0, 255)) if rng.random() < 0.7 else rng.uniform(150, 255, 3)
    paint = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 9, 3), 0, 255)
    while np.abs(ground - paint).max() < 60:
        ground = np.full(3, rng.uniform(0, 255))
    scale = 3  # drawn larger, then reduced: smooth edges
    image = Image.new("RGB", (side * scale, side * scale), tuple(int(v) for v in ground))
    draw = ImageDraw.Draw(image)
    radius = side * scale * rng.uniform(0.2, 0.36)
    reach = side * scale / 2 - radius * 1.2
    centre = side * scale / 2 + rng.uniform(-reach, reach, 2) * 0.8
    fill = tuple(int(v) for v in paint)
    if shape == "circle":
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=fill)
    else:
        turn = rng.uniform(-0.25, 0.25)
        cos, sin = np.cos(turn), np.sin(turn)
        draw.polygon(
            [(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in _points(shape, radius)], fill=fill
        )
    image = image.resize((side, side), Image.LANCZOS)
    noise = rng.normal(0, rng.uniform(0, 8), (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.float32) + noise, 0, 255).astype(np.uint8))


def caption(label, template):
    return template.replace("{text}", label).replace("{label}", label)
