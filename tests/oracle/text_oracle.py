#!/usr/bin/env python3
"""The tokenizers against transformers' SiglipTokenizer and Siglip2Tokenizer, live, over fresh random strings and ten
models.

    SIGLIP_BUILD_DIR=build/ci python3 tests/oracle/text_oracle.py [--count 10000] [--seed N]
"""

import argparse
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import text_cases  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    dump = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/text/tokenize_dump"
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        for name in [*text_cases.MODELS, *text_cases.GEMMA_MODELS]:
            folder = pathlib.Path(temporary) / name
            make = text_cases.make_gemma_model if name in text_cases.GEMMA_MODELS else text_cases.make_model
            make(folder, name)
            texts = text_cases.random_strings(args.count, args.seed)
            expected = text_cases.reference_ids(folder, texts)
            records = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
            lines = subprocess.run([dump, folder, "64"], input=records, capture_output=True, check=True).stdout
            got = [[int(i) for i in line.split()] for line in lines.decode().splitlines()]
            wrong = [i for i, (a, b) in enumerate(zip(expected, got)) if a != b]
            failures += len(wrong) + abs(len(expected) - len(got))
            print(f"{name}: {len(texts) - len(wrong)} of {len(texts)} equal")
            for i in wrong[:3]:
                print(f"  {texts[i]!r}: expected {expected[i]}, got {got[i]}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
