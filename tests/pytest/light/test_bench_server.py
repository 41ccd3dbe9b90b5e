"""`siglip bench server` and `siglip validate` against a server that listens on IPv6."""

import json
import pathlib
import re
import subprocess

import pytest

from conftest import DEMO, ROOT, SIGLIP


@pytest.fixture(name="server", scope="module")
def server_fixture():
    interfaces = pathlib.Path("/proc/net/if_inet6")
    if not interfaces.exists() or not interfaces.read_text():
        pytest.skip("SIGLIP_TEST_SKIPPED: this machine has no IPv6")
    process = subprocess.Popen([str(SIGLIP), "serve", "--model", str(DEMO), "--http-port", "0", "--grpc-port", "0",
                                "--allow-metrics", "false", "--http-address", "[::1]", "--grpc-address", "::1"],
                               cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ports = None
    for line in process.stdout:
        ports = re.search(r"listening http=\[::1\]:(\d+) grpc=\[::1\]:(\d+)$", line)
        if ports:
            break
    assert ports, process.wait()
    yield {"http": ports.group(1), "grpc": ports.group(2), "pid": process.pid}
    process.terminate()
    assert process.wait(timeout=40) == 0


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
