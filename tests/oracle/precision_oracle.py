#!/usr/bin/env python3
"""--precision int16, int8 and bf16 against transformers in float64, with torch's bfloat16 and int8 as the measures.

    SIGLIP_BUILD_DIR=build/ci python3 tests/oracle/precision_oracle.py [--size base-224 so400m] [--layers N]

Bar of int16: cosine >= 0.99999 on well-conditioned weights; on weights with planted outlier channels a relative L2 error
of at most a quarter of torch bfloat16's on the same weights. Bar of int8: at most the error of torch's dynamic
quantisation per channel on either, and of bf16 that of torch's bfloat16. Of all: the same bits whatever the batch and the
threads. int8 and bf16 are skipped, and said so, where the processor does not have them.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import engine_oracle as oracle
import make_random_checkpoint as checkpoints
import numpy as np
import torch
import transformers

MIN_COSINE = 0.99999
# Of which measure, and at most what part of its error.
BARS = {"int16": ("torch bfloat16", 0.25), "int8": ("torch int8", 1), "bf16": ("torch bfloat16", 1)}
# What a processor needs, one of them; of int16 nothing.
NEEDS = {"int8": ("-vnni", "-amx"), "bf16": ("-amx",)}


def load(folder):
    return transformers.SiglipModel.from_pretrained(folder, dtype=torch.float32).eval()


def quantised(model):
    quantization = torch.ao.quantization
    return quantization.quantize_dynamic(model, {torch.nn.Linear: quantization.per_channel_dynamic_qconfig}, inplace=True)


def can(precision):
    version = subprocess.run([oracle.SIGLIP, "--version"], check=True, capture_output=True, text=True).stdout
    return precision not in NEEDS or any(name in version for name in NEEDS[precision])


def ours(folder, paths, precision):
    """Embeddings, and whether those of one item at a time on one thread are the same."""
    got = oracle.ours(folder, paths, "auto", "--precision", precision)
    single = oracle.ours(folder, paths, "auto", "--precision", precision, "--threads", "1", "--engine-batch-size", "1",
                         "--batch-size", "1")
    return got, np.array_equal(got, single)


def compare(size, layers, outliers):
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        model = checkpoints.make_model(checkpoints.named_architecture(size, layers), outliers=outliers)
        checkpoints.write(model, folder, "float32")
        paths = oracle.make_images(folder)[:2]
        config = transformers.SiglipConfig.from_pretrained(folder)
        ids = oracle.token_ids(folder, config)
        pixels = oracle.prepare(folder, config, paths)
        exact = oracle.forward(load(folder).to(torch.float64), pixels, ids, torch.float64)
        measures = {
            "torch float32": oracle.forward(load(folder), pixels, ids, torch.float32),
            "torch bfloat16": oracle.forward(load(folder).to(torch.bfloat16), pixels, ids, torch.bfloat16),
            "torch int8": oracle.forward(quantised(load(folder)), pixels, ids, torch.float32)}
        passed = True
        for precision, (measure, max_ratio) in BARS.items():
            if not can(precision):
                print(f"{size} outliers {outliers} {precision}: SKIPPED, the processor has no {' nor '.join(NEEDS[precision])}",
                      flush=True)
                continue
            got, same_bits = ours(folder, paths, precision)
            if not same_bits:
                print(f"{size} outliers {outliers} {precision}: batch and threads change the bits FAIL")
            passed &= same_bits
            parts = got[:len(paths)].astype(np.float64), got[len(paths):].astype(np.float64)
            for i, tower in enumerate(("vision", "text")):
                error = oracle.relative_l2(parts[i], exact[i])
                errors = {name: oracle.relative_l2(rows[i], exact[i]) for name, rows in measures.items()}
                near = oracle.cosine(parts[i], exact[i])
                good = error <= max_ratio * errors[measure]
                good &= precision != "int16" or outliers > 0 or near >= MIN_COSINE
                passed &= good
                print(f"{size} outliers {outliers} {tower}: relative L2 {precision} {error:.2e} (ratio to {measure} "
                      f"{error / errors[measure]:.3f}), " + ", ".join(f"{name} {value:.2e}" for name, value in errors.items())
                      + f"; 1 - cosine {precision} {1 - near:.2e}, {measure} "
                      f"{1 - oracle.cosine(measures[measure][i], exact[i]):.2e} {'ok' if good else 'FAIL'}", flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="*", choices=checkpoints.SIZES, default=["base-224"])
    parser.add_argument("--layers", type=int)
    args = parser.parse_args()
    passed = True
    for size in args.size:
        for outliers in (0, 8):
            passed &= compare(size, args.layers, outliers)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
