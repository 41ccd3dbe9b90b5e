"""For the suites beside clients/ that need its server."""

import importlib.util
import pathlib


def load_clients():
    """tests/pytest/clients/conftest.py, a name that every suite has."""
    path = pathlib.Path(__file__).resolve().parent / "clients/conftest.py"
    spec = importlib.util.spec_from_file_location("clients_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
