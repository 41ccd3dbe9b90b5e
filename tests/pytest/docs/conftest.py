"""The server that the pages' clients talk to."""

import importlib.util
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


def load_clients():
    """tests/pytest/clients/conftest.py, which has the same name as this file."""
    spec = importlib.util.spec_from_file_location("clients_conftest", HERE.parent / "clients/conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="ports", scope="session")
def ports_fixture():
    """Address of each default port."""
    urls = load_clients().start_server()
    yield {8000: urls.http, 8001: urls.grpc, 8002: urls.metrics}
    urls.process.terminate()
    assert urls.process.wait(timeout=40) == 0
