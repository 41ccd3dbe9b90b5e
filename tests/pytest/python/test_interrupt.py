"""Ctrl-C ends a long call early, whatever the items before were like."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import siglip

ROOT = pathlib.Path(__file__).resolve().parents[3]

# A list whose first and last items are bad tells how far the call came.
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


class Progress(dict):
    """Failures; and for each of them, how many rows had been written from the item's own on when it was told."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.ahead = rows.reshape(len(rows), -1)[:, 0], []
        self.rows.fill(-7)

    def __setitem__(self, index, why):
        super().__setitem__(index, why)
        self.ahead.append(int(np.count_nonzero(self.rows[index:] != -7)))


@pytest.mark.parametrize("kind, per_call", [("embed_images", 8), ("preprocess", 32), ("embed_texts", 32)])
def test_quick_items_do_not_make_the_calls_of_the_library_longer(kind, per_call):
    """Signals are looked at between these, of which two are under way at a time."""
    model = siglip.Model(ROOT / "models/demo", precision="fp32")
    if kind == "embed_texts":
        good, bad = b"a seven", b"\xff"
    else:
        file = (ROOT / "data/demo/examples/seven.png").read_bytes()
        good, bad = ((siglip._siglip.FILE, content, 0, 0) for content in (file, b""))
    shape = (3, model.image_size, model.image_size) if kind == "preprocess" else (model.embedding_size,)
    for items in ([bad] * 500, [good] * 250 + [bad] + [good] * 750):
        rows = np.empty((len(items), *shape), np.float32)
        progress = Progress(rows)
        getattr(model._model, kind)(items, rows, progress)  # as the package does, with our rows and dict
        assert len(progress) == items.count(bad) and not (progress.rows == -7).any()
        assert max(progress.ahead) <= 2 * per_call
