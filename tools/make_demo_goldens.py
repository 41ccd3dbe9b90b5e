#!/usr/bin/env python3
"""Writes tests/golden/demo.json: what transformers makes of demo pictures and texts, in float64 and float32.

    python3 tools/make_demo_goldens.py      (tools/setup/requirements-oracle.txt)

Pictures go through Pillow's convert("RGB").resize and (x/255 - mean)/std in float32, texts through
SiglipTokenizer with padding; the model gets `input_ids` alone.
"""

import json
import pathlib

import numpy as np
import PIL
import torch
import transformers
from PIL import Image

MODEL = pathlib.Path("models/demo")
TEXTS = ["", "seven", "A photo of seven.", "A PHOTO OF A RED CIRCLE!", "a blue star", "This is a photo containing images "
         "of green cross.", "naïve ΑΣ 東京 🐈", "one two three " * 20, "</s> odd </s>", "1+1=2?"]


def pictures():
    paths = sorted(pathlib.Path("data/demo/examples").iterdir())
    return paths + sorted(pathlib.Path("data/demo/valid").glob("*/*_0.JPEG"))[::3]


def main():
    tokenizer = transformers.SiglipTokenizer.from_pretrained(MODEL)
    length = min(tokenizer.model_max_length, json.loads((MODEL / "config.json").read_text())["text_config"]
                 .get("max_position_embeddings", 64))
    paths = pictures()
    size = json.loads((MODEL / "preprocessor_config.json").read_text())["size"]["height"]
    stack = np.stack([np.asarray(Image.open(p).convert("RGB").resize((size, size), Image.BICUBIC)) for p in paths])
    pixels = ((stack.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).transpose(0, 3, 1, 2)
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")["input_ids"]
    rows = {}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        model = transformers.SiglipModel.from_pretrained(MODEL, dtype=torch.float32).eval().to(dtype)
        with torch.no_grad():
            images = model.vision_model(pixel_values=torch.from_numpy(pixels).to(dtype)).pooler_output
            texts = model.text_model(input_ids=ids).pooler_output
        rows[name] = {"images": images.double().numpy(), "texts": texts.double().numpy()}

    def error(kind):
        exact, rounded = rows["float64"][kind], rows["float32"][kind]
        return (np.linalg.norm(rounded - exact, axis=1) / np.linalg.norm(exact, axis=1)).tolist()

    pathlib.Path("tests/golden").mkdir(parents=True, exist_ok=True)
    pathlib.Path("tests/golden/demo.json").write_text(json.dumps({
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__, "pillow": PIL.__version__},
        "images": [str(p) for p in paths], "texts": TEXTS, "ids": ids.tolist(),
        "image_embeddings": np.round(rows["float64"]["images"], 12).tolist(),
        "text_embeddings": np.round(rows["float64"]["texts"], 12).tolist(),
        "image_error_of_float32": error("images"), "text_error_of_float32": error("texts"),
    }) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
