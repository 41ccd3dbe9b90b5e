"""Fixtures of what stands around the server: files of deploy/, the list of parts, the binary's hardening."""

import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path += [str(HERE), str(HERE.parent), str(ROOT / "tools")]

from clients_server import load_clients  # noqa: E402


def owners(libraries):
    """Debian packages of shared libraries, by the names of their files; dpkg -S does the same, slowly."""
    wanted = {f"/x86_64-linux-gnu/{name}" for name in libraries}
    found = {}
    for path in pathlib.Path("/var/lib/dpkg/info").glob("*.list"):
        for line in path.read_text(errors="replace").splitlines():
            place = line.find("/x86_64-linux-gnu/")
            if place >= 0 and line[place:] in wanted:
                found[line[place:]] = path.name.removesuffix(".list").split(":")[0]
    assert set(found) == wanted, f"nobody's: {wanted - set(found)}"
    return set(found.values())


@pytest.fixture(name="binary", scope="session")
def binary_fixture():
    binary = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/cli/siglip"
    if not binary.exists():
        load_clients().skip(f"{binary} is not built")
    return binary


@pytest.fixture(name="server", scope="session")
def server_fixture():
    clients = load_clients()
    with pytest.MonkeyPatch.context() as monkeypatch:
        clients.fake_gpus(monkeypatch)  # the dashboard shows GPUs too
        urls = clients.start_server()
    yield urls
    urls.process.terminate()
    assert urls.process.wait(timeout=40) == 0
