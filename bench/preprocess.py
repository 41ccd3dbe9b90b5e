#!/usr/bin/env python3
"""Time src/image against Pillow + numpy on one core: bytes -> float32 [3, SIZE, SIZE].

Usage: preprocess.py [--size 384] [--rounds 8] [--build build/release]
Needs Pillow and numpy, and siglip_preprocess_dump in the build folder. Both sides run in turns on the
same core; the least time of all rounds counts. The pixels of both are compared first.
"""
import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

HALF = np.float32(0.5)


def photo(width, height, channels=3):
    """Something like a photograph: smooth areas, edges, some noise."""
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, channels), np.uint8)
    layers = [np.asarray(Image.fromarray(small[..., c]).resize((width, height), Image.Resampling.BICUBIC)) for c in range(channels)]
    a = np.stack(layers, -1).astype(np.int16) + rng.normal(0, 6, (height, width, channels)).astype(np.int16)
    return np.clip(a, 0, 255).astype(np.uint8)


def save(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def cases():
    for width, height in [(500, 375), (375, 500), (1024, 768), (4000, 3000), (200, 150)]:
        yield f"JPEG {width}x{height}", save(Image.fromarray(photo(width, height)), "JPEG", quality=90)
    rgb = Image.fromarray(photo(500, 375))
    yield "JPEG 4:4:4 500x375", save(rgb, "JPEG", quality=90, subsampling=0)
    yield "JPEG progressive 500x375", save(rgb, "JPEG", quality=90, progressive=True)
    yield "JPEG grey 500x375", save(rgb.convert("L"), "JPEG", quality=90)
    yield "PNG 500x375", save(rgb, "PNG")
    yield "PNG RGBA 500x375", save(Image.fromarray(photo(500, 375, 4), "RGBA"), "PNG")
    yield "WebP 500x375", save(rgb, "WEBP", quality=85)
    yield "WebP lossless 500x375", save(rgb, "WEBP", lossless=True)
    yield "GIF 500x375", save(rgb.quantize(256), "GIF")
    yield "BMP 500x375", save(rgb, "BMP")
    yield "TIFF LZW 500x375", save(rgb, "TIFF", compression="tiff_lzw")


def with_pillow(data, size):
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    x = np.asarray(image).astype(np.float32)
    x /= np.float32(255)
    x -= HALF
    x /= HALF
    return np.ascontiguousarray(x.transpose(2, 0, 1))


def time_pillow(data, size, runs=10):
    least = float("inf")
    for _ in range(runs):
        start = time.perf_counter_ns()
        with_pillow(data, size)
        least = min(least, time.perf_counter_ns() - start)
    return least


class Tool:
    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, what, size, path):
        self.process.stdin.write(f"{what}\t{size}\t3\t13\t{path}\n".encode())
        self.process.stdin.flush()
        fields = self.process.stdout.readline().decode().rstrip("\n").split("\t")
        if fields[0] != "ok":
            sys.exit(f"{path}: {fields}")
        return self.process.stdout.read(int(fields[4]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--build", default="build/release")
    options = parser.parse_args()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    tool = Tool(Path(options.build) / "tests/image_differential/siglip_preprocess_dump")
    print(f"Pillow {PIL.__version__}, numpy {np.__version__}, {options.size} px, least of {options.rounds} x 10 runs, ms")
    print(f"{'':28}{'Pillow':>9}{'siglip':>9}{'ratio':>7}")
    with tempfile.NamedTemporaryFile() as file:
        for name, data in cases():
            file.seek(0)
            file.truncate()
            file.write(data)
            file.flush()
            if tool.ask("pixels", options.size, file.name) != with_pillow(data, options.size).tobytes():
                sys.exit(f"{name}: the pixels differ")
            pillow = siglip = float("inf")
            for _ in range(options.rounds):
                pillow = min(pillow, time_pillow(data, options.size))
                siglip = min(siglip, int(tool.ask("time", options.size, file.name)))
            print(f"{name:28}{pillow / 1e6:9.3f}{siglip / 1e6:9.3f}{pillow / siglip:7.2f}", flush=True)


main()
