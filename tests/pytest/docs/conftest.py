"""The server that the pages' clients talk to."""

import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from clients_server import load_clients  # noqa: E402


@pytest.fixture(name="ports", scope="session")
def ports_fixture():
    """Address of each default port."""
    urls = load_clients().start_server()
    yield {8000: urls.http, 8001: urls.grpc, 8002: urls.metrics}
    urls.process.terminate()
    assert urls.process.wait(timeout=40) == 0
