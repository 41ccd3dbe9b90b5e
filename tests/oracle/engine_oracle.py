#!/usr/bin/env python3
"""Embeddings against transformers in float64, with transformers' own float32 run as the measure.

    SIGLIP_BUILD_DIR=build/ci python3 tests/oracle/engine_oracle.py [--size tiny base-224 so400m] [--layers N]

Random weights of real sizes, with and without planted outlier channels, in F32, F16 and BF16. Bar: relative L2 error
at most twice that of transformers' float32 run; cosine >= 0.999999 on well-conditioned weights.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_random_checkpoint as checkpoints  # noqa: E402

TEXTS = ["a photo of a red circle", "", "seven " * 50]


def relative_l2(got, exact):
    return (np.linalg.norm(got - exact, axis=1) / np.linalg.norm(exact, axis=1)).max()


def compare(size, layers, outliers, dtype, folder):
    checkpoints.write(checkpoints.make_model(size, layers, outliers=outliers), folder, dtype)
    rng = np.random.default_rng(1)
    paths = []
    for i in range(2):
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (40 + 20 * i, 60, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    siglip = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/cli/siglip"
    texts = [item for text in TEXTS for item in ("--text", text)]
    subprocess.run([siglip, "embed", "--model", folder, *paths, *texts, "-o", folder / "o.npy"], check=True)
    ours = np.load(folder / "o.npy").astype(np.float64)

    config = transformers.SiglipConfig.from_pretrained(folder)
    side, length = config.vision_config.image_size, config.text_config.max_position_embeddings
    pixels = np.stack([np.asarray(Image.open(p).convert("RGB").resize((side, side), Image.BICUBIC)) for p in paths])
    pixels = ((pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).transpose(0, 3, 1, 2)
    tokenizer = transformers.SiglipTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")["input_ids"]
    rows = []
    for precision in (torch.float64, torch.float32):
        model = transformers.SiglipModel.from_pretrained(folder, dtype=torch.float32).eval().to(precision)
        with torch.no_grad():
            image = model.vision_model(pixel_values=torch.from_numpy(pixels).to(precision)).pooler_output
            text = model.text_model(input_ids=ids).pooler_output
        rows.append(torch.cat([image, text]).double().numpy())
    exact, rounded = rows
    passed = True
    for tower, part in (("vision", slice(0, 2)), ("text", slice(2, None))):
        mine, theirs = relative_l2(ours[part], exact[part]), relative_l2(rounded[part], exact[part])
        norms = np.linalg.norm(ours[part], axis=1) * np.linalg.norm(exact[part], axis=1)
        cosine = ((ours[part] * exact[part]).sum(1) / norms).min()
        good = mine <= 2 * theirs and (outliers > 0 or cosine >= 0.999999)
        passed &= good
        print(f"{size} {dtype} outliers {outliers} {tower}: relative L2 {mine:.3e}, transformers float32 {theirs:.3e}, "
              f"ratio {mine / theirs:.2f}, cosine {cosine:.9f} {'ok' if good else 'FAIL'}", flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=checkpoints.SIZES, default=["tiny", "base-224"])
    parser.add_argument("--layers", type=int)
    args = parser.parse_args()
    passed = True
    for size in args.size:
        for outliers, dtype in ((0, "float32"), (4, "float32"), (0, "float16"), (0, "bfloat16")):
            with tempfile.TemporaryDirectory() as temporary:
                passed &= compare(size, args.layers, outliers, dtype, pathlib.Path(temporary))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
