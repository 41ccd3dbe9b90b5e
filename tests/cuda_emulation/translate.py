#!/usr/bin/env python3
"""A .cu file for a C++ compiler: launches become calls of emulated_device.h, and so does shared memory whose size the
launch says.

    python3 tests/cuda_emulation/translate.py src/kernels/cuda/rows.cu OUT.cc
"""

import pathlib
import re
import sys

LAUNCH = re.compile(r"(\b\w+(?:<[^<>;{}]*>)?)<<<(.*?), ([\w:* ]+), ([\w: ]+), stream>>>\((\w+)\);", re.DOTALL)
SHARED = re.compile(r"extern __shared__ __align__\(16\) ([\w:]+) (\w+)\[\];")


def translate(text):
    text = LAUNCH.sub(r"emulation::Launch(\1, \2, \3, \4, stream, \5);", text)
    text = SHARED.sub(r"auto* const \2 = reinterpret_cast<\1*>(emulation::DynamicShared());", text)
    left = re.search(r"<<<|extern __shared__", text)
    if left:
        sys.exit(f"not understood: {text[max(left.start() - 200, 0):left.end() + 200]}")
    return '#include "emulated_device.h"\n' + text


if __name__ == "__main__":
    source, out = map(pathlib.Path, sys.argv[1:])
    out.write_text(f'// Made of {source.name}.\n{translate(source.read_text())}')
