"""Fixtures of the light oracles: numpy, Pillow, scikit-learn; no torch, no protobuf."""

import os
import pathlib
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


@pytest.fixture(name="siglip")
def siglip_fixture():
    return run_siglip


@pytest.fixture(name="demo")
def demo_fixture():
    return DEMO
