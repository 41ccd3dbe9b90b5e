"""The load balancers of deploy/ in front of three real servers: one is killed, one is drained, under load, and every
request that a client sent is answered, with the bytes of the embedding. Streams last, however long they are silent."""

import collections
import contextlib
import pathlib
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from clients_server import load_clients  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[3]
PICTURES = [path.read_bytes() for path in sorted((ROOT / "data/demo/examples").iterdir())]
CLIENTS = 12  # of each protocol
ANSWERS = 200  # of each protocol, before, between and after
ENVOY = ROOT / ".venv/deploy/bin/envoy"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def haproxy(folder, servers, ports):
    """The command of a balancer with deploy/'s configuration, in which addresses alone are changed."""
    text = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
    for name, server in zip("abc", servers, strict=True):
        text = text.replace(f"siglip-{name}:8000", server.http).replace(f"siglip-{name}:8001", f"{server.grpc}")
        # Each of these servers has a port of its own for the check too.
        text = re.sub(rf"(server {name} .*)", rf"\1 port {server.http.split(':')[1]}", text)
    text = text.replace("bind :8000", f"bind 127.0.0.1:{ports[0]}").replace("bind :8001", f"bind 127.0.0.1:{ports[1]}")
    text = text.replace("127.0.0.1:8404", f"127.0.0.1:{free_port()}")
    (folder / "haproxy.cfg").write_text(text)
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/bin") or load_clients().skip("no haproxy")
    return [program, "-db", "-f", folder / "haproxy.cfg"]


def envoy(folder, servers, ports):
    text = (ROOT / "deploy/envoy/envoy.yaml").read_text()
    for line in re.findall(r"^ *- \{endpoint: .*siglip-pods.*\n", text, re.MULTILINE):
        urls = [server.http if "8000" in line else server.grpc for server in servers]
        lines = [re.sub(r"siglip-pods, port_value: \d+", "127.0.0.1, port_value: " + url.split(":")[1], line) for url in urls]
        text = text.replace(line, "".join(lines))
    for default, port in zip((8000, 8001, 9901), (*ports, free_port()), strict=True):
        text = re.sub(rf"address: [0-9.]+, port_value: {default}\}}", f"address: 127.0.0.1, port_value: {port}}}", text)
    (folder / "envoy.yaml").write_text(text)
    if not ENVOY.exists():
        load_clients().skip("no envoy (tools/setup/install.sh venv deploy)")
    return [ENVOY, "-c", folder / "envoy.yaml", "--log-level", "warning", "--disable-hot-restart", "--concurrency", "2"]


def image_input(module, index):
    tensor = module.InferInput("INPUT_IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[PICTURES[index]]], dtype=object))
    return [tensor]


class Load:
    """Clients that send one request after the other until they are told to stop."""

    def __init__(self, module, url, expected):
        self.module, self.url, self.expected = module, url, expected
        self.lock, self.stopping = threading.Condition(), False
        self.answers, self.failures = 0, []
        self.threads = [threading.Thread(target=self.run, args=(seed,), daemon=True) for seed in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self, index):
        client = self.module.InferenceServerClient(self.url)
        while not self.stopping:
            index = (index + 1) % len(PICTURES)
            try:
                got = client.infer("embed_image", image_input(self.module, index)).as_numpy("EMBEDDING")
                failure = None if np.array_equal(got, self.expected[index]) else "another embedding"
            except Exception as error:  # pylint: disable=broad-exception-caught
                failure = f"{type(error).__name__}: {error}"
            with self.lock:
                self.answers += 1
                if failure:
                    self.failures.append(failure)
                self.lock.notify_all()

    def wait(self, more):
        """Until `more` requests have been answered; a balancer that hangs fails here."""
        with self.lock:
            goal = self.answers + more
            assert self.lock.wait_for(lambda: self.answers >= goal, timeout=100), f"{self.answers} of {goal} answers"

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), "a request was not answered"


def await_ready(url, process):
    for _ in range(600):
        assert process.poll() is None, f"the balancer ended with {process.returncode}"
        try:
            with urllib.request.urlopen(f"http://{url}/v2/health/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the balancer has no server")


@contextlib.contextmanager
def balanced(balancer, folder, options, hurry=False):
    """Three servers and a balancer: yields the servers, and the URLs of the balancer's two ports.

    hurry: the balancer's time-outs of 40 to 75 s are 2 s.
    """
    servers = [load_clients().start_server(["--threads", "1", *options]) for _ in range(3)]
    running = [server.process for server in servers]
    try:
        ports = free_port(), free_port()
        command = balancer(folder, servers, ports)
        if hurry:
            config = next(pathlib.Path(word) for word in command if pathlib.Path(word).parent == folder)
            config.write_text(re.sub(r"\b[4-7][0-9]s\b", "2s", config.read_text()))
        running.append(subprocess.Popen(command))
        urls = [f"127.0.0.1:{port}" for port in ports]
        await_ready(urls[0], running[-1])
        yield servers, urls
    finally:
        for process in running:
            process.kill()
            process.wait()


def embedded(server):
    """How many requests the server's doors have answered."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=20) as answer:
        found = re.findall(r'^nv_inference_request_success\{model="embed_image".*\} (\d+)$', answer.read().decode(), re.MULTILINE)
    return sum(map(int, found))


def await_calm(server, loads):
    """Until nothing comes any more to a server that is not ready; before it ends, as what comes then is lost."""
    before = None
    while server.process.poll() is None:
        now = embedded(server)
        if now == before:
            return
        before = now
        for load in loads:
            load.wait(20)
    raise AssertionError("the balancer sent requests until the server ended")


@pytest.mark.parametrize("balancer", [haproxy, envoy], ids=lambda balancer: balancer.__name__)
def test_no_request_is_lost(balancer, tmp_path):
    with balanced(balancer, tmp_path, ["--drain-delay-secs", "3"]) as (servers, urls):
        killed, drained, last = servers
        with httpclient.InferenceServerClient(last.http) as client:
            expected = [client.infer("embed_image", image_input(httpclient, index)).as_numpy("EMBEDDING")
                        for index in range(len(PICTURES))]
        loads = [Load(httpclient, urls[0], expected), Load(grpcclient, urls[1], expected)]
        for disturb in (lambda: None, killed.process.kill, drained.process.terminate):
            disturb()
            if disturb == drained.process.terminate:
                await_calm(drained, loads)
            for load in loads:
                load.wait(ANSWERS)
        assert killed.process.wait(timeout=40) == -9
        assert drained.process.wait(timeout=40) == 0, "a server that drains answers what it accepted"
        for load in loads:
            load.stop()
        print(f"{balancer.__name__}: {loads[0].answers} HTTP and {loads[1].answers} gRPC answers")
        for load in loads:
            assert not load.failures, collections.Counter(load.failures)


def outlast_time_outs(channel):
    """Returns when the balancer has given up a call whose one message does not come, twice one after the other: whoever
    was silent meanwhile was so for longer than its time-outs."""
    for _ in range(2):
        over = threading.Event()
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            with pytest.raises(grpc.RpcError) as error:
                call((b"" for _ in iter(over.wait, True)), timeout=60)
            assert error.value.code() != grpc.StatusCode.DEADLINE_EXCEEDED, "the balancer waited for ever"
        finally:
            over.set()


@pytest.mark.parametrize("balancer", [haproxy, envoy], ids=lambda balancer: balancer.__name__)
def test_streams_last(balancer, tmp_path):
    """tritonclient keeps its half of a stream open; a Watch says nothing until the server's health changes."""
    with contextlib.ExitStack() as stack:
        servers, urls = stack.enter_context(balanced(balancer, tmp_path, ["--drain-delay-secs", "1"], hurry=True))
        client = stack.enter_context(grpcclient.InferenceServerClient(urls[1]))
        channel = stack.enter_context(grpc.insecure_channel(urls[1]))
        want = client.infer("embed_image", image_input(grpcclient, 0)).as_numpy("EMBEDDING")
        health = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert next(health) == b"\x08\x01", "SERVING"
        answers = queue.SimpleQueue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for _ in range(3):
            client.async_stream_infer("embed_image", image_input(grpcclient, 0))
            result, error = answers.get(timeout=60)
            assert error is None, error
            assert np.array_equal(result.as_numpy("EMBEDDING"), want)
            outlast_time_outs(channel)
        client.stop_stream()
        assert answers.empty(), "the stream ended by itself"
        for server in servers:
            server.process.terminate()
        assert next(health) == b"\x08\x02", "NOT_SERVING"
