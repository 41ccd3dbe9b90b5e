"""Asks a ready server on its default ports over both doors, ends it with SIGTERM, and asks until it is gone.

    container.py PID
"""

import json
import os
import pathlib
import signal
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import tritonclient.grpc
import tritonclient.http

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests/golden/demo.json").read_text())


def status_of(path):
    """None: nobody listens."""
    try:
        with urllib.request.urlopen(f"http://localhost:8000{path}", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def wait_until(path, status, seconds):
    end = time.monotonic() + seconds
    while (found := status_of(path)) != status:
        assert time.monotonic() < end, f"{path}: expected {status} within {seconds} s, got {found}"
        time.sleep(0.05)


def embed(module, port, images):
    tensor = module.InferInput("INPUT_IMAGE", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(-1, 1))
    with module.InferenceServerClient(f"localhost:{port}") as client:
        return client.infer("embed_image", [tensor]).as_numpy("EMBEDDING")


def check_embeddings():
    images = [(ROOT / name).read_bytes() for name in GOLDEN["images"]]
    over_http, over_grpc = (embed(module, port, images) for module, port in (
        (tritonclient.http, 8000), (tritonclient.grpc, 8001)))
    assert np.array_equal(over_http, over_grpc)
    expected = np.array(GOLDEN["image_embeddings"])
    norms = np.linalg.norm(over_http, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.sum(over_http * expected, axis=1) / norms
    assert np.min(cosines) > 1 - 1e-5, np.min(cosines)  # what `auto` promises (docs/numerics.md)


def main(pid):
    check_embeddings()
    os.kill(pid, signal.SIGTERM)
    wait_until("/v2/health/ready", 400, 5)
    assert status_of("/v2/health/live") == 200
    check_embeddings()
    wait_until("/v2/health/live", None, 30)


main(int(sys.argv[1]))
