#!/usr/bin/env python3
"""Time src/image against Pillow + numpy on one core: bytes -> float32 [3, SIZE, SIZE], whole and by stages.

    .venv/light/bin/python bench/preprocess.py [--size 384] [--rounds 8] [--build build/release]

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

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tables  # noqa: E402

HALF = np.float32(0.5)
STAGES = ["decode", "resize", "normalize", "all"]


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


def normalized(image):
    x = np.asarray(image).astype(np.float32)
    x /= np.float32(255)
    x -= HALF
    x /= HALF
    return np.ascontiguousarray(x.transpose(2, 0, 1))


def with_pillow(data, size):
    return normalized(Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def time_pillow(data, size, runs=10):
    """Least ns of STAGES over some runs."""
    least = [float("inf")] * 4
    for _ in range(runs):
        start = time.perf_counter_ns()
        decoded = Image.open(io.BytesIO(data)).convert("RGB")
        decoded_at = time.perf_counter_ns()
        resized = decoded.resize((size, size), Image.Resampling.BICUBIC)
        resized_at = time.perf_counter_ns()
        normalized(resized)
        end = time.perf_counter_ns()
        stages = [decoded_at - start, resized_at - decoded_at, end - resized_at, end - start]
        least = [min(pair) for pair in zip(least, stages)]
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

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def measure(build, size, rounds):
    """What tables.preprocess_table shows."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    tool = Tool(Path(build) / "tests/image_differential/siglip_preprocess_dump")
    rows = []
    with tempfile.NamedTemporaryFile() as file:
        for name, data in cases():
            file.seek(0)
            file.truncate()
            file.write(data)
            file.flush()
            if tool.ask("pixels", size, file.name) != with_pillow(data, size).tobytes():
                sys.exit(f"{name}: the pixels differ")
            pillow, siglip = [float("inf")] * 4, [float("inf")] * 4
            for _ in range(rounds):
                pillow = [min(pair) for pair in zip(pillow, time_pillow(data, size))]
                siglip = [min(pair) for pair in zip(siglip, map(int, tool.ask("time", size, file.name).split()))]
            rows.append({"image": name, "pillow_ms": dict(zip(STAGES, (ns / 1e6 for ns in pillow))),
                         "siglip_ms": dict(zip(STAGES, (ns / 1e6 for ns in siglip)))})
    tool.stop()
    os.sched_setaffinity(0, cores)
    return {"size": size, "rounds": rounds, "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--build", default="build/release")
    options = parser.parse_args()
    print(f"Pillow {PIL.__version__}, numpy {np.__version__}")
    print(tables.preprocess_table(measure(options.build, options.size, options.rounds)), end="")


if __name__ == "__main__":
    main()
