"""schemathesis against the document that the server serves: requests that fit it and requests that do not."""

import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from clients_server import load_clients  # noqa: E402


@pytest.fixture(scope="module")
def url():
    urls = load_clients().start_server()
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
