"""`siglip bench server` and `siglip validate` against a server that listens on IPv6."""

import json
import pathlib

import pytest

from conftest import DEMO, serving


@pytest.fixture(name="server", scope="module")
def server_fixture():
    interfaces = pathlib.Path("/proc/net/if_inet6")
    if not interfaces.exists() or not interfaces.read_text():
        pytest.skip("SIGLIP_TEST_SKIPPED: this machine has no IPv6")
    with serving(DEMO, http="[::1]", grpc="::1") as urls:
        assert urls["http"].startswith("[::1]:") and urls["grpc"].startswith("[::1]:")
        yield {"http": urls["http"].rsplit(":", 1)[1], "grpc": urls["grpc"].rsplit(":", 1)[1], "pid": urls["pid"]}


@pytest.mark.parametrize("host", ["[::1]", "::1"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_both_forms_of_an_address(siglip, server, protocol, host):
    command = ["bench", "server", "--protocol", protocol, "--url", f"{host}:{server[protocol]}", "--text", "a", "--json",
               "--seconds", "0.3", "--concurrency", "1"]
    result = siglip(*command)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["answers"] > 0
    result = siglip(*command, "--rate", "20", "--connections", "2")
    assert result.returncode == 0 and json.loads(result.stdout)["offered"] > 0, result.stderr
    result = siglip("validate", "--protocol", protocol, "--url", f"{host}:{server[protocol]}", "--data", "nowhere")
    assert "HOST:PORT" not in result.stderr


def test_cpu_seconds_are_told_of_a_known_process_alone(siglip, server):
    command = ["bench", "server", "--url", f"[::1]:{server['grpc']}", "--text", "a", "--seconds", "0.1"]
    assert json.loads(siglip(*command, "--json").stdout)["server_cpu_s_per_text"] is None
    assert "CPU" not in siglip(*command).stdout
    known = siglip(*command, "--json", "--server-pid", server["pid"])
    assert isinstance(json.loads(known.stdout)["server_cpu_s_per_text"], (int, float)), known.stderr
    assert "server CPU s/text" in siglip(*command, "--server-pid", server["pid"]).stdout


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_what_is_no_address_is_quoted(siglip, protocol):
    for url in ("http://localhost:8000", "localhost", "localhost:http", "[::1]"):
        result = siglip("bench", "server", "--protocol", protocol, "--url", url, "--text", "a")
        assert result.returncode == 2 and f"expected HOST:PORT, got '{url}'" in result.stderr, result.stderr
    result = siglip("bench", "server", "--protocol", "http", "--url", "no.such.invalid:80", "--text", "a")
    assert result.returncode == 1 and "no.such.invalid:80: " in result.stderr and "boost" not in result.stderr.lower()
