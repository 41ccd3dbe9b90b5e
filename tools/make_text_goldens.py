#!/usr/bin/env python3
"""Writes tests/golden/text: SentencePiece and BPE models, and the ids that transformers gives for many strings.

    python3 tools/make_text_goldens.py [FOLDER]      (tools/setup/requirements-oracle.txt)

strings.bin: records of a little-endian uint32 length and UTF-8 bytes; MODEL/ids.txt: one line of ids per record.
repeats/ has records of its own.
"""

import json
import pathlib
import struct
import sys

import sentencepiece
import tokenizers
import transformers

import text_cases

COMMITTED = ["nfkc_unigram", "identity", "no_dummy_prefix", "byte_fallback", "bpe", "plain_nfkc"]
COUNT = 2500
REPEATED = 400


def write_strings(path, strings):
    with open(path, "wb") as file:
        for text in strings:
            data = text.encode("utf-8")
            file.write(struct.pack("<I", len(data)) + data)


def write_ids(folder, strings):
    ids = text_cases.reference_ids(folder, strings)
    (folder / "ids.txt").write_text("\n".join(" ".join(map(str, row)) for row in ids) + "\n")


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/text")
    strings = text_cases.random_strings(COUNT, 20261124)
    folder.mkdir(parents=True, exist_ok=True)
    write_strings(folder / "strings.bin", strings)
    for name in COMMITTED + list(text_cases.GEMMA_MODELS):
        make = text_cases.make_gemma_model if name in text_cases.GEMMA_MODELS else text_cases.make_model
        make(folder / name, name)
        write_ids(folder / name, strings)
    repeats, repeated = folder / "repeats", text_cases.repeated_strings(REPEATED, 20261129)
    text_cases.make_repeats_model(repeats)
    write_strings(repeats / "strings.bin", repeated)
    write_ids(repeats, repeated)
    (folder / "versions.json").write_text(json.dumps({
        "transformers": transformers.__version__, "sentencepiece": sentencepiece.__version__,
        "tokenizers": tokenizers.__version__,
        "python": sys.version.split()[0], "strings": COUNT}, indent=1) + "\n")


if __name__ == "__main__":
    main()
