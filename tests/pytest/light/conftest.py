"""Fixtures of the light oracles: numpy, Pillow, scikit-learn; no torch, no protobuf."""

import contextlib
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci")
SIGLIP = BUILD / "src/cli/siglip"
DEMO = ROOT / "models/demo"


def run_siglip(*arguments, **options):
    """Runs the program from the root; returns CompletedProcess with text streams."""
    return subprocess.run(
        [str(SIGLIP), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        **options,
    )


@contextlib.contextmanager
def serving(model, *options, http="127.0.0.1", grpc="127.0.0.1"):
    """A server on ports of its own, by the addresses that it says: {"http": HOST:PORT, "grpc": HOST:PORT, "pid": N}."""
    process = subprocess.Popen([str(SIGLIP), "serve", "--model", str(model), "--http-port", "0", "--grpc-port", "0",
                                "--metrics-port", "0", "--http-address", http, "--grpc-address", grpc,
                                *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = None
    for line in process.stdout:
        found = re.search(r"listening http=(\S+:\d+) grpc=(\S+:\d+)", line)
        if found:
            break
    assert found, process.wait()
    try:
        yield {"http": found.group(1), "grpc": found.group(2), "pid": process.pid}
    finally:
        process.terminate()
    assert process.wait(timeout=40) == 0


@pytest.fixture(name="siglip")
def siglip_fixture():
    return run_siglip


@pytest.fixture(name="demo")
def demo_fixture():
    return DEMO
