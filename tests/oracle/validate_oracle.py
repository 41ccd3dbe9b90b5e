#!/usr/bin/env python3
"""`siglip validate` on the demo against Pillow, transformers and scikit-learn, end to end.

    SIGLIP_BUILD_DIR=build/ci python3 tests/oracle/validate_oracle.py [--model DIR] [--data DIR]

Every prediction is compared. A disagreement is listed, and allowed only where the two best classes are within 1e-5
of each other (of the fifth and sixth for a top-5 hit): there float32 embeddings cannot decide.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEMPLATES = [
    "A photo of {text}.",
    "This is a photo containing images of {text}.",
    "This is a photo from ImageNet's {label} category. This category contains photos of {text}.",
]
MAX_MARGIN = 1e-5
BATCH = 32


class Oracle:
    def __init__(self, folder):
        self.model = transformers.SiglipModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = transformers.SiglipTokenizer.from_pretrained(folder)
        self.config = transformers.SiglipConfig.from_pretrained(folder)

    def images(self, paths):
        side = self.config.vision_config.image_size
        rows = []
        for start in range(0, len(paths), BATCH):
            squares = [np.asarray(Image.open(p).convert("RGB").resize((side, side), Image.BICUBIC))
                       for p in paths[start:start + BATCH]]
            pixels = (np.stack(squares).astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
            with torch.no_grad():
                planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).to(self.model.dtype)
                rows.append(self.model.vision_model(pixel_values=planes).pooler_output.float().numpy())
        return np.concatenate(rows).astype(np.float64)

    def texts(self, texts, padded=True):
        rows = []
        length = self.config.text_config.max_position_embeddings
        for text in texts:
            options = {"padding": "max_length"} if padded else {}
            ids = self.tokenizer([text], truncation=True, max_length=length, return_tensors="pt", **options)
            with torch.no_grad():
                rows.append(self.model.text_model(input_ids=ids["input_ids"]).pooler_output.float().numpy()[0])
        return np.stack(rows).astype(np.float64)


def knn(fit, labels, valid):
    """Probabilities [images,classes] in the order of np.unique(labels)."""
    classifier = KNeighborsClassifier(min(10, len(fit)), weights="distance", metric="cosine").fit(fit, labels)
    return classifier.predict_proba(valid), classifier.classes_


class Dataset:
    """An ImageNet folder: names of its labels, files of each split and their labels."""

    def __init__(self, folder):
        words = [line.split() for line in (folder / "LOC_synset_mapping.txt").read_text(encoding="utf-8").splitlines()]
        self.names = dict(sorted((line[0], " ".join(line[1:])) for line in words if line))
        self.labels = np.array(list(self.names))
        self.files = {split: sorted((folder / split).glob("*/*")) for split in ("train", "valid")}
        self.label_of = {split: np.array([path.parent.name for path in paths]) for split, paths in self.files.items()}

    def texts(self, template):
        return [template.replace("{label}", c).replace("{text}", t) for c, t in self.names.items()]


def compare(name, mine, truth, scores, classes):
    order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    allowed = failed = 0
    for i, row in enumerate(mine):
        best = scores[i][order[i]]
        checks = [("top-1", row["top5"][0] == classes[order[i][0]], best[0] - best[1]),
                  ("top-5 hit", row["hit5"] == (truth[i] in classes[order[i][:5]]), best[4] - best[5])]
        for what, equal, margin in checks:
            if equal:
                continue
            good = margin < MAX_MARGIN
            allowed += good
            failed += not good
            print(f"  {name}: {what} differs, margin {margin:.3g}, {row['path']}: siglip {row['top5']}, "
                  f"oracle {list(classes[order[i][:5]])} {'allowed' if good else 'FAIL'}")
    accuracy = [np.mean([truth[i] in classes[order[i][:k]] for i in range(len(mine))]) for k in (1, 5)]
    ours = [np.mean([row[f"hit{k}"] for row in mine]) for k in (1, 5)]
    print(f"{name}: siglip {ours[0]:.4f} {ours[1]:.4f}, oracle {accuracy[0]:.4f} {accuracy[1]:.4f}, "
          f"{len(mine)} images, {allowed} allowed disagreements, {failed} wrong", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/demo")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "data/demo")
    args = parser.parse_args()
    siglip = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/cli/siglip"
    with tempfile.TemporaryDirectory() as temporary:
        out = pathlib.Path(temporary) / "p.jsonl"
        subprocess.run([siglip, "validate", "--model", args.model, "--data", args.data, "--no-padding", "--predictions",
                        out], check=True, stdout=subprocess.DEVNULL)
        predictions = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]

    oracle = Oracle(args.model)
    data = Dataset(args.data)
    labels = data.labels
    images = {split: oracle.images(paths) for split, paths in data.files.items()}
    padded = [oracle.texts(data.texts(template)) for template in TEMPLATES]
    valid, truth = images["valid"], data.label_of["valid"]
    tables = [("few-shot", *knn(images["train"], data.label_of["train"], valid))]
    tables += [(f"zero-shot {template!r}", *knn(rows, labels, valid)) for template, rows in zip(TEMPLATES, padded)]
    tables.append(("no padding", *knn(oracle.texts(data.texts(TEMPLATES[0]), padded=False), labels, valid)))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    tables.append(("sigmoid", unit(valid) @ unit(sum(map(unit, padded))).T, labels))

    failed = 0
    for number, (name, scores, classes) in enumerate(tables):
        mine = predictions[number * len(valid):(number + 1) * len(valid)]
        assert [row["path"] for row in mine] == [str(path) for path in data.files["valid"]]
        failed += compare(name, mine, truth, scores, classes)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
