#!/usr/bin/env python3
"""The tokenizers against transformers' SiglipTokenizer and Siglip2Tokenizer, live, over fresh random strings and ten
models; long ones cut to 64 ids, and nearly whole.

    SIGLIP_BUILD_DIR=build/ci python3 tests/oracle/text_oracle.py [--count 10000] [--long 20] [--seed N]
"""

import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import text_cases  # noqa: E402


def compare(dump, folder, what, texts, longest):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(config | {"model_max_length": longest}))
    expected = text_cases.reference_ids(folder, texts, longest)
    records = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    lines = subprocess.run([dump, folder, str(longest)], input=records, capture_output=True, check=True).stdout
    got = [[int(i) for i in line.split()] for line in lines.decode().splitlines()]
    wrong = [i for i, (a, b) in enumerate(zip(expected, got)) if a != b]
    print(f"{what}: {len(texts) - len(wrong)} of {len(texts)} equal", flush=True)
    for i in wrong[:3]:
        print(f"  {texts[i][:300]!r}: expected {expected[i][:99]}, got {got[i][:99]}")
    return len(wrong) + abs(len(expected) - len(got))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--long", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    dump = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/text/tokenize_dump"
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        for name in [*text_cases.MODELS, *text_cases.GEMMA_MODELS]:
            folder = pathlib.Path(temporary) / name
            make = text_cases.make_gemma_model if name in text_cases.GEMMA_MODELS else text_cases.make_model
            make(folder, name)
            short = text_cases.random_strings(args.count, args.seed)
            long = text_cases.long_strings(args.long, args.seed)
            repeated = text_cases.repeated_strings(args.count // 10, args.seed)
            for kind, texts, longest in (("short", short, 64), ("repeats", repeated, 64), ("long", long, 64),
                                         ("long", long, 50_000)):
                failures += compare(dump, folder, f"{name}, {kind}, {longest} ids", texts, longest)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
