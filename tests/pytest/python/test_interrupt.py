"""Ctrl-C ends a long call early. (A list whose first and last items are bad tells how far the call came.)"""

import os
import pathlib
import subprocess
import sys

import pytest
import siglip

ROOT = pathlib.Path(__file__).resolve().parents[3]

PROGRAM = """
import os, signal, sys, threading
import numpy as np
import siglip

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
model = siglip.Model(sys.argv[1], precision="fp32", threads=1)
picture = sys.argv[2]
failures = {}

def interrupt():
    while not failures:
        threading.Event().wait(0.01)
    os.kill(os.getpid(), signal.SIGINT)

calls = {
    "images": lambda: model.embed_images([b"", *[picture] * 20_000, b""], failures),
    "pixels": lambda: model.preprocess([b"", *[picture] * 5_000, b""], failures),
    "texts": lambda: model.embed_texts(["\\ud800", *["a seven"] * 50_000, "\\ud800"], failures),
}
threading.Thread(target=interrupt, daemon=True).start()
try:
    calls[sys.argv[3]]()
    print("went on to its end")
except KeyboardInterrupt:
    print("interrupted", len(failures), np.array_equal(model.embed_texts(["x"]), model.embed_texts(["x"])))
"""


@pytest.mark.parametrize("kind", ["images", "pixels", "texts"])
def test_ctrl_c_ends_a_long_call(kind):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, ROOT / "models/demo", ROOT / "data/demo/examples/seven.png", kind],
        capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(siglip.__file__).parents[1])})
    assert run.stdout == "interrupted 1 True\n"
