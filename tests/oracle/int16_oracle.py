#!/usr/bin/env python3
"""--precision int16 against transformers in float64, with torch's bfloat16 as the measure.

    SIGLIP_BUILD_DIR=build/ci python3 tests/oracle/int16_oracle.py [--size base-224 so400m] [--layers N]

Bar: cosine >= 0.99999 on well-conditioned weights; on weights with planted outlier channels a relative L2 error of at
most a quarter of torch bfloat16's on the same weights; the same bits whatever the batch and the threads.
"""

import argparse
import pathlib
import sys
import tempfile

import engine_oracle as oracle
import make_random_checkpoint as checkpoints
import numpy as np
import torch
import transformers

MIN_COSINE = 0.99999
MAX_RATIO = 0.25


def compare(size, layers, outliers):
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        model = checkpoints.make_model(checkpoints.named_architecture(size, layers), outliers=outliers)
        checkpoints.write(model, folder, "float32")
        paths = oracle.make_images(folder)[:2]
        config = transformers.SiglipConfig.from_pretrained(folder)
        ids = oracle.token_ids(folder, config)
        pixels = oracle.prepare(folder, config, paths)
        rows = {}
        for precision in (torch.float64, torch.float32, torch.bfloat16):
            model = transformers.SiglipModel.from_pretrained(folder, dtype=torch.float32).eval().to(precision)
            rows[precision] = oracle.forward(model, pixels, ids, precision)
        got = oracle.ours(folder, paths, "auto", "--precision", "int16")
        single = oracle.ours(folder, paths, "auto", "--precision", "int16", "--threads", "1", "--engine-batch-size", "1",
                             "--batch-size", "1")
        passed = np.array_equal(got, single)
        if not passed:
            print(f"{size} outliers {outliers}: batch and threads change the bits FAIL")
        parts = got[:len(paths)].astype(np.float64), got[len(paths):].astype(np.float64)
        for tower, mine, exact, float32, bfloat16 in zip(("vision", "text"), parts, rows[torch.float64],
                                                         rows[torch.float32], rows[torch.bfloat16]):
            error, measure = oracle.relative_l2(mine, exact), oracle.relative_l2(bfloat16, exact)
            near = oracle.cosine(mine, exact)
            good = error <= MAX_RATIO * measure and (outliers > 0 or near >= MIN_COSINE)
            passed &= good
            print(f"{size} outliers {outliers} {tower}: relative L2 int16 {error:.2e}, torch bfloat16 {measure:.2e} (ratio "
                  f"{error / measure:.3f}), torch float32 {oracle.relative_l2(float32, exact):.2e}; 1 - cosine int16 "
                  f"{1 - near:.2e}, bfloat16 {1 - oracle.cosine(bfloat16, exact):.2e} {'ok' if good else 'FAIL'}", flush=True)
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
