#!/usr/bin/env python3
"""Writes tests/golden/naflex: a small NaFlex checkpoint with random weights, and what transformers makes of sizes,
pictures and texts.

    python3 tools/make_naflex_goldens.py      (tools/setup/requirements-oracle.txt)

The weights are stored in float16; the network runs in float64 and in float32. A picture alone and in a batch with
others, padded, are the same to transformers; here each runs alone.
"""

import hashlib
import json
import os
import pathlib
import random
import shutil

import numpy as np
import PIL
import torch
import transformers
from PIL import Image
from transformers.models.siglip2 import image_processing_pil_siglip2 as processing

import make_random_checkpoint as checkpoints

OUT = pathlib.Path("tests/golden/naflex")
SHARED = {"hidden_size": 36, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 3}
VISION = {**SHARED, "num_patches": 49, "patch_size": 8}
TEXT = {**SHARED, "vocab_size": 1158, "max_position_embeddings": 20, "projection_size": 36}
MAX_PATCHES = 100
FILES = [f"data/demo/examples/{name}" for name in ("red_circle.jpg", "seven.png", "blue_star.png")] + [
    f"tests/data/image/{name}" for name in ("rgb8.png", "wide.jpg", "tall.jpg", "one_pixel.jpg", "s0.jpg", "rgba8.png",
                                            "interlaced_d8_c2_3x5.png")]
TEXTS = ["", "seven", "A Photo of SEVEN.", "a blue star", "one two three " * 20, "na\u00efve \u6771\u4eac", "<eos> odd"]
# width, height, patch, most patches: edges of the bisection.
SIZES = [(640, 480, 16, 256), (10, 1000, 16, 256), (5000, 10, 16, 256), (257, 256, 16, 256), (1, 1, 16, 256),
         (256, 256, 16, 256), (1, 178956970, 16, 256), (178956970, 1, 16, 13), (13377, 13378, 16, 256), (1, 1, 1, 1),
         (3, 1, 1, 65536), (4000, 3000, 16, 1024), (255, 257, 14, 729), (1000, 999, 7, 2)]
SHAPES = [(7, 7), (1, 1), (1, 100), (50, 2), (3, 5), (14, 7), (7, 13), (10, 10), (2, 40), (9, 1)]


def picture(width, height):
    """The same pixels in naflex_test.cc."""
    y, x, c = np.ogrid[:height, :width, :3]
    return ((x * 7 + y * 13 + c * 31 + x * y * (c + 1) // 3) % 251).astype(np.uint8)


def random_sizes():
    draw = random.Random(7)

    def side():
        return int(2 ** draw.uniform(0, 13))
    return [(side(), side(), draw.choice([7, 8, 14, 16, 16, 32]), draw.choice([1, 5, 64, 100, 256, 256, 576, 1024]))
            for _ in range(400)]


def target_size(width, height, patch, patches):
    height, width = processing.get_image_size_for_max_num_patches(height, width, patch, patches)
    return width, height


def process(images, **options):
    """Of Siglip2ImageProcessorPil: pixel_values and spatial_shapes as numpy has them."""
    processor = processing.Siglip2ImageProcessorPil.from_pretrained(OUT)
    batch = processor(images, return_tensors="np", **options)
    return batch["pixel_values"], batch["spatial_shapes"]


def pixel_hashes():
    draw = random.Random(9)
    sizes = [(640, 480, 16, 256), (1, 1, 16, 256), (3, 200, 16, 64), (200, 3, 16, 64), (97, 61, 14, 100), (61, 97, 7, 33),
             (256, 256, 16, 256), (500, 900, 16, 256), (33, 40, 8, 1), (386, 395, 32, 5)]
    sizes += [(int(2 ** draw.uniform(0, 9)), int(2 ** draw.uniform(0, 9)), draw.choice([7, 8, 14, 16]),
               draw.choice([1, 5, 64, 100, 256])) for _ in range(40)]
    rows = []
    for width, height, patch, patches in sizes:
        values, shapes = process([Image.fromarray(picture(width, height))], patch_size=patch, max_num_patches=patches)
        digest = hashlib.sha256(values[0].astype("<f4").tobytes()).hexdigest()
        rows.append([width, height, patch, patches, *map(int, shapes[0]), digest])
    return rows


def positions():
    """A table [7,7,5] resized by torch, in float32 as transformers does."""
    table = torch.randn(7, 7, 5, generator=torch.Generator().manual_seed(3))
    embeddings = transformers.models.siglip2.modeling_siglip2.Siglip2VisionEmbeddings
    resized = [embeddings.resize_positional_embeddings(table, torch.tensor([shape]), shape[0] * shape[1])[0]
               for shape in SHAPES]
    return {"side": 7, "width": 5, "table": table.flatten().tolist(),
            "grids": [{"rows": rows, "columns": columns, "values": values.flatten().tolist()}
                      for (rows, columns), values in zip(SHAPES, resized)]}


def embed(model, values, shapes, ids):
    dtype = model.dtype
    with torch.no_grad():
        images = [model.vision_model(
            pixel_values=torch.from_numpy(one[None, :rows * columns]).to(dtype),
            pixel_attention_mask=torch.ones(1, rows * columns, dtype=torch.int32),
            spatial_shapes=torch.tensor([[rows, columns]])).pooler_output
            for one, (rows, columns) in zip(values, shapes.tolist())]
        texts = model.text_model(input_ids=ids).pooler_output
    return {"image": torch.cat(images).double().numpy(), "text": texts.double().numpy()}


def make_checkpoint():
    shutil.rmtree(OUT, ignore_errors=True)
    checkpoints.write(checkpoints.make_model((VISION, TEXT), seed=11), OUT, "float16",
                      preprocessor={"max_num_patches": MAX_PATCHES}, siglip2=True)
    checkpoints.shorten_config(OUT, "dtype")
    (OUT / "tokenizer.json").unlink()
    os.symlink("../text/gemma/tokenizer.json", OUT / "tokenizer.json")
    (OUT / "model.safetensors").chmod(0o644)


def main():
    checkpoints.mend_interpolation()
    make_checkpoint()
    values, shapes = process([Image.open(path).convert("RGB") for path in FILES])
    tokenizer = transformers.Siglip2Tokenizer.from_pretrained(OUT)
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=TEXT["max_position_embeddings"],
                    return_tensors="pt")["input_ids"]
    model = transformers.Siglip2Model.from_pretrained(OUT, dtype=torch.float32).eval()
    rounded = embed(model, values, shapes, ids)
    exact = embed(model.double(), values, shapes, ids)
    golden = {"versions": {"transformers": transformers.__version__, "torch": torch.__version__, "pillow": PIL.__version__},
              "sizes": [[*size, *target_size(*size)] for size in SIZES + random_sizes()],
              "pixels": pixel_hashes(), "positions": positions(),
              "images": FILES, "spatial_shapes": shapes.tolist(), "texts": TEXTS, "ids": ids.tolist()}
    for kind in ("image", "text"):
        golden[f"{kind}_embeddings"] = np.round(exact[kind], 12).tolist()
        golden[f"{kind}_error_of_float32"] = (np.linalg.norm(rounded[kind] - exact[kind], axis=1) /
                                              np.linalg.norm(exact[kind], axis=1)).tolist()
    (OUT / "golden.json").write_text(json.dumps(golden) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
