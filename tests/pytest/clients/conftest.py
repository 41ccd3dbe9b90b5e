"""A running `siglip serve` for the conformance tests, and skipping where there is none."""

import os
import pathlib
import re
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


def skip(reason):
    pytest.skip(f"SIGLIP_TEST_SKIPPED: {reason}")


class ServerUrls:
    def __init__(self, http, grpc, metrics, process=None):
        self.http, self.grpc, self.metrics, self.process = http, grpc, metrics, process


def start_server(arguments=(), model="models/demo"):
    """Starts `siglip serve` on free ports; returns its addresses once it says that it listens."""
    binary = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src" / "cli" / "siglip"
    if not binary.exists():
        skip(f"{binary} is not built")
    command = [str(binary), "serve", "--model", str(ROOT / model), "--http-port", "0",
               "--grpc-port", "0", "--metrics-port", "0", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        found = re.search(r"listening http=\S+:(\d+) grpc=\S+:(\d+) metrics=\S+:(\d+)", line)
        if found:
            # Nobody reads on: the pipe holds more than the server says in a test run.
            return ServerUrls(*(f"127.0.0.1:{port}" for port in found.groups()), process)
    raise RuntimeError(f"{command} ended with {process.wait()}:\n{''.join(lines)}")


@pytest.fixture(scope="session")
def server():
    """SIGLIP_HTTP_URL, SIGLIP_GRPC_URL and SIGLIP_METRICS_URL name a running server; else the binary of
    SIGLIP_BUILD_DIR is started."""
    if "SIGLIP_HTTP_URL" in os.environ:
        yield ServerUrls(os.environ["SIGLIP_HTTP_URL"], os.environ["SIGLIP_GRPC_URL"],
                         os.environ.get("SIGLIP_METRICS_URL"))
        return
    urls = start_server()
    yield urls
    urls.process.terminate()
    begin = time.monotonic()
    assert urls.process.wait(timeout=40) == 0, "SIGTERM must end the server with exit code 0"
    assert time.monotonic() - begin < 5, "an idle server must end at once"


def fake_library(name):
    """LD_LIBRARY_PATH with the folder of a stand-in of one of the NVIDIA driver's libraries."""
    folder = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src" / name
    if not folder.exists():
        skip(f"{folder} is not built")
    return f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"


def fake_gpus(monkeypatch):
    """Servers that start now find an NVML with two GPUs, of which the second tells its memory alone."""
    monkeypatch.setenv("LD_LIBRARY_PATH", fake_library("server/fake_nvml"))


@pytest.fixture(name="fake_gpus")
def fake_gpus_fixture(monkeypatch):
    fake_gpus(monkeypatch)
