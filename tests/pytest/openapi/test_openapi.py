"""schemathesis against the document that the server serves: requests that fit it and requests that do not."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


def clients_conftest():
    path = ROOT / "tests" / "pytest" / "clients" / "conftest.py"
    spec = importlib.util.spec_from_file_location("clients_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def url():
    urls = clients_conftest().start_server()
    yield f"http://{urls.http}"
    urls.process.terminate()
    assert urls.process.wait(timeout=40) == 0


def test_answers_fit_the_document(url, tmp_path):
    """A document cannot say that a string is an image file, so what fits it may be refused
    (positive_data_acceptance); every other check is on."""
    program = pathlib.Path(sys.executable).parent / "schemathesis"
    done = subprocess.run(
        [program, "run", f"{url}/openapi.json", "--checks", "all", "--exclude-checks", "positive_data_acceptance",
         "--phases", "coverage,fuzzing", "--max-examples", "40", "--seed", "1", "--no-color"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
