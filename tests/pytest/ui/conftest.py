"""A server, and a real browser that looks at its page."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SIGLIP = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/cli/siglip"
DEMO = ROOT / "models/demo"
sys.path[:0] = [str(HERE), str(HERE.parent)]

import chromium  # noqa: E402
from clients_server import load_clients  # noqa: E402


def run_siglip(*arguments):
    return subprocess.run([str(SIGLIP), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          check=True)


@pytest.fixture(name="start", scope="session")
def start_fixture():
    """start(options, model=folder) -> the server's http address; all are stopped at the end."""
    servers = []

    def start(*options, model=DEMO):
        servers.append(load_clients().start_server(options, model))
        return f"http://{servers[-1].http}"

    yield start
    for server in servers:
        server.process.terminate()
    assert [server.process.wait(timeout=40) for server in servers] == [0] * len(servers)


def embed_five_classes(model, folder):
    """The demo's validation pictures of five classes."""
    path = folder / "pictures.npy"
    run_siglip("embed", "-q", "--model", model, "data/demo/valid/n0000000[1-5]", "-o", path)
    return path


@pytest.fixture(name="index", scope="session")
def index_fixture(tmp_path_factory):
    return embed_five_classes(DEMO, tmp_path_factory.mktemp("index"))


@pytest.fixture(name="server", scope="session")
def server_fixture(start, index):
    return start("--search-index", str(index))


@pytest.fixture(name="browser", scope="session")
def browser_fixture(tmp_path_factory):
    browser = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(name="page")
def page_fixture(browser, server):
    """The page, freshly opened; what the browser has to complain about fails the test."""
    browser.log.clear()
    browser.size(1280)
    browser.open(f"{server}/ui")
    yield browser
    assert browser.log == []


@pytest.fixture(name="screenshots", scope="session")
def screenshots_fixture(tmp_path_factory):
    """Where pictures of the page go: SIGLIP_SCREENSHOTS, for people who want to look at them."""
    folder = pathlib.Path(os.environ.get("SIGLIP_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
