#!/usr/bin/env python3
"""Writes src/text/unicode_tables.inc: str.lower(), and what its final-sigma rule looks at, of this Python; and what
the tokenizers library lower-cases beyond it.

    .venv/oracle/bin/python tools/make_unicode_tables.py > src/text/unicode_tables.inc

transformers' SiglipTokenizer lower-cases with Python's str.lower(), Siglip2Tokenizer with the tokenizers library, so
these are the reference. They are found by asking them, since `unicodedata` does not tell Cased and Case_Ignorable.
"""

import sys
import unicodedata

import tokenizers


def code_points():
    return (c for c in range(sys.maxunicode + 1) if not 0xD800 <= c <= 0xDFFF)


def ranges(values):
    """Sorted code points as [first, last] pairs."""
    result = []
    for value in values:
        if result and value == result[-1][1] + 1:
            result[-1][1] = value
        else:
            result.append([value, value])
    return result


def print_runs(name, lower):
    print(f"constexpr LowerRun {name}[] = {{")
    runs = []
    for c, low in lower:
        delta = low - c
        if runs and runs[-1][3] == delta:
            first, count, stride, _ = runs[-1]
            step = c - (first + (count - 1) * stride)
            if (count == 1 and step <= 2) or (count > 1 and step == stride):
                runs[-1] = [first, count + 1, step, delta]
                continue
        runs.append([c, 1, 1, delta])
    for first, count, stride, delta in runs:
        print(f"    {{0x{first:X}, {count}, {stride}, {delta}}},")
    print("};")


def main():
    rust = tokenizers.normalizers.Lowercase().normalize_str
    lower, newer, cased, ignorable = [], [], [], []
    for c in code_points():
        text = chr(c)
        lowered = text.lower()
        if lowered != text:
            if len(lowered) == 1:
                lower.append((c, ord(lowered)))
            else:
                assert (c, lowered) == (0x130, "i\u0307"), "a new multi-character lower case"
        if rust(text) != lowered:
            assert lowered == text and len(rust(text)) == 1, "not only more letters"
            newer.append((c, ord(rust(text))))
        if c == 0x3A3:
            continue
        # A sigma after a cased letter, possibly with ignorable characters between them, is final.
        before_is_cased = (" " + text + "\u03a3").lower().endswith("\u03c2")
        skipped_or_cased = ("A" + text + "\u03a3").lower().endswith("\u03c2")
        if before_is_cased:
            cased.append(c)
        elif skipped_or_cased:
            ignorable.append(c)
    cased = sorted(cased + [0x3A3])

    print(f"// Made by tools/make_unicode_tables.py from Python {sys.version.split()[0]}, Unicode "
          f"{unicodedata.unidata_version}. Do not edit.")
    print("// Runs of `count` code points from `first`, `stride` apart, whose lower case is `delta` further on.")
    print_runs("kLowerRuns", lower)
    print(f"// The same, beyond these: tokenizers {tokenizers.__version__}.")
    print_runs("kNewerLowerRuns", newer)
    for name, what, values in (
        ("kCased", "Cased and not Case_Ignorable.", cased),
        ("kCaseIgnorable", "Case_Ignorable.", ignorable),
    ):
        print(f"// {what}")
        print(f"constexpr CodePointRange {name}[] = {{")
        for first, last in ranges(values):
            print(f"    {{0x{first:X}, 0x{last:X}}},")
        print("};")


if __name__ == "__main__":
    main()
