"""What goes wrong around a server: its files, its memory, its disk, its end. Nothing that was accepted is lost, errors are
those of docs/reliability.md, and what cannot go on ends with a message."""

import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib

import grpc
import numpy as np
import pytest

import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from conftest import ROOT, skip, start_server
from test_decode_workers import children, kill_all
from test_drop_in import clients, embed
from test_tritonclient import image_input, text_input

sys.path.insert(0, str(ROOT / "bench"))
import http2_frames as h2

BUILD = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci")
LONG = 3600  # seconds that a test would hang if something waited for them


def end(urls):
    """The exit code after SIGTERM."""
    urls.process.terminate()
    return urls.process.wait(timeout=60)


@pytest.fixture(name="checkpoint")
def checkpoint_fixture(tmp_path):
    return pathlib.Path(shutil.copytree(ROOT / "models/demo", tmp_path / "checkpoint"))


@pytest.fixture(name="serve")
def serve_fixture():
    """start_server, and nothing is left running."""
    started = []

    def serve(*arguments, model=ROOT / "models/demo", **environment):
        kept = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            started.append(start_server(list(map(str, arguments)), model))
        finally:
            for name, value in kept.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        return started[-1]

    yield serve
    for urls in started:
        urls.process.kill()
        urls.process.wait()


def both_towers(urls):
    client = httpclient.InferenceServerClient(urls.http)
    return (embed(client, httpclient),
            client.infer("embed_text", [text_input(httpclient, ["a photo of seven"])]).as_numpy("EMBEDDING"))


def test_a_checkpoint_may_be_removed_while_it_is_served(serve, checkpoint):
    urls = serve(model=checkpoint)
    before = both_towers(urls)
    shutil.rmtree(checkpoint)
    for old, new in zip(before, both_towers(urls), strict=True):
        np.testing.assert_array_equal(old, new)
    assert end(urls) == 0


def test_weights_that_are_cut_short_end_the_process_with_their_name(serve, checkpoint, tmp_path):
    """The checkpoint is not looked at again once its weights are packed; the cache of packed weights stays mapped."""
    cache = tmp_path / "cache"
    cache.mkdir()
    urls = serve("--precision", "fp32", "--cache-dir", cache, model=checkpoint)
    before = both_towers(urls)
    os.truncate(checkpoint / "model.safetensors", 4096)
    for old, new in zip(before, both_towers(urls), strict=True):
        np.testing.assert_array_equal(old, new)
    weights = next(cache.glob("*.weights"))
    os.truncate(weights, 4096)
    with pytest.raises(Exception):  # whatever the client makes of a connection that ends
        both_towers(urls)
    assert urls.process.wait(timeout=60) == -signal.SIGBUS
    text = urls.process.stdout.read()
    assert "cut short" in text and str(weights) in text


@pytest.mark.parametrize("milliseconds", [0, 10, 30, 60, 100, 200])
def test_sigterm_at_any_moment_of_the_start_ends_it(milliseconds):
    """As the signal itself does, before the program has taken it over; 143 while it loads; 0 once it serves."""
    binary = BUILD / "src/cli/siglip"
    if not binary.exists():
        skip(f"{binary} is not built")
    process = subprocess.Popen([binary, "serve", "--model", ROOT / "models/demo", "--http-port", "0", "--grpc-port", "0",
                                "--metrics-port", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=milliseconds / 1000)
    except subprocess.TimeoutExpired:
        process.terminate()
    assert process.wait(timeout=60) in (-signal.SIGTERM, 128 + signal.SIGTERM, 0)


def post(urls, model, body, length):
    """A connection with a request whose answer is not read."""
    host, port = urls.http.split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def half_a_body(urls):
    return post(urls, "embed_image", b"half", 1000)


def waiting(urls, model):
    """Requests in a model's queue."""
    with urllib.request.urlopen(f"http://{urls.metrics}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines
               if line.startswith(f'nv_inference_pending_request_count{{model="{model}"'))


def is_ready(urls):
    try:
        with urllib.request.urlopen(f"http://{urls.http}/v2/health/ready", timeout=30) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        assert error.code == 400
        return False


@pytest.fixture(name="patient")
def patient_fixture(tmp_path):
    """A repository whose batches of texts wait for an hour for others."""
    repository = tmp_path / "repository"
    for model in ("embed_text", "siglip_text"):
        shutil.copytree(ROOT / "model_repository" / model, repository / model)
    config = repository / "siglip_text/config.pbtxt"
    config.write_text(re.sub(r"max_queue_delay_microseconds: *\d+", f"max_queue_delay_microseconds: {LONG}000000",
                             config.read_text()))
    return repository


def half_call(urls, method, message):
    """A gRPC call whose message does not come to its end. The server has seen it: it has answered what came behind."""
    host, port = urls.grpc.split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(h2.open_connection() + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.grpc_head(method))
                       + h2.frame(h2.DATA, 0, 1, message) + h2.frame(h2.PING, 0, 0, b"12345678"))
    received = b""
    while h2.frame(h2.PING, h2.ACK, 0, b"12345678") not in received:
        received += connection.recv(65536)
    return connection


def test_requests_that_do_not_come_whole_do_not_hold_up_the_end(serve):
    urls = serve("--exit-timeout-secs", LONG)
    dribbling = [(half_call(urls, method, message), h2.frame(h2.DATA, 0, 1, b"x"))
                 for method in ("ModelInfer", "ModelStreamInfer", "ServerReady")
                 for message in (b"", h2.grpc_message(bytes(1000))[:100])]
    dribbling.append((half_a_body(urls), b"x"))
    assert is_ready(urls)  # behind the half body, so that has been seen
    done = threading.Event()

    def dribble():
        while not done.wait(0.05):
            for connection, piece in dribbling:
                try:
                    connection.send(piece)
                except OSError:
                    pass

    client = threading.Thread(target=dribble)
    client.start()
    begin = time.monotonic()
    code = end(urls)
    done.set()
    client.join()
    assert code == 0
    assert time.monotonic() - begin < 20, "four seconds, on a machine with nothing else to do"
    for connection, _ in dribbling:
        connection.close()


ONE_TEXT = b'{"inputs":[{"name":"INPUT_TEXT","shape":[1,1],"datatype":"BYTES","data":["seven"]}]}'


@pytest.mark.parametrize("over", ["http", "grpc", "both"])
def test_the_end_does_not_wait_for_what_the_models_still_hold(serve, patient, over):
    urls = serve("--model-repository", patient, "--exit-timeout-secs", "1")
    sent = []
    if over != "grpc":
        sent.append(post(urls, "embed_text", ONE_TEXT, len(ONE_TEXT)))
    if over != "http":
        client = grpcclient.InferenceServerClient(urls.grpc)
        client.async_infer("embed_text", [text_input(grpcclient, ["seven"])], callback=lambda result, error: None)
        sent.append(client)
    while waiting(urls, "siglip_text") < len(sent):
        pass
    assert end(urls) == 1
    for connection in sent:
        connection.close()


def test_a_second_sigterm_ends_what_the_first_waits_for(serve, patient):
    urls = serve("--model-repository", patient, "--exit-timeout-secs", LONG)
    connection = post(urls, "embed_text", ONE_TEXT, len(ONE_TEXT))
    while waiting(urls, "siglip_text") < 1:
        pass
    urls.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        urls.process.wait(timeout=0.5)
    urls.process.terminate()
    assert urls.process.wait(timeout=60) == 128 + signal.SIGTERM
    connection.close()


@pytest.mark.parametrize("option, words", [
    ("--max-inflight-input-bytes", "the memory for inputs of requests in flight: .* the limit of all is 5"),
    ("--max-inflight-output-bytes", "the memory for requests in flight: model 'siglip_text' .* the limit of all is 5")])
def test_what_requests_in_flight_hold_is_the_operators_choice(serve, patient, option, words):
    """One alone may be larger; beside one that waits nothing fits."""
    urls = serve("--model-repository", patient, option, 5)
    connection = post(urls, "embed_text", ONE_TEXT, len(ONE_TEXT))
    while waiting(urls, "siglip_text") < 1:
        pass
    for client, module in clients(urls):
        with pytest.raises(InferenceServerException, match=words):
            client.infer("embed_text", [text_input(module, ["seven"])])
    connection.close()


def test_clients_that_only_wait_do_not_hold_up_the_end(serve):
    urls = serve("--exit-timeout-secs", LONG)
    idle = []
    for client, module in clients(urls):
        embed(client, module)
        idle.append(client)
    host, port = urls.http.split(":")
    idle += [socket.create_connection((host, int(port))) for _ in range(50)]  # not a byte
    stream = grpcclient.InferenceServerClient(urls.grpc)
    stream.start_stream(callback=lambda result, error: None)
    assert end(urls) == 0


def test_a_server_that_leaves_is_not_ready_first_and_serves_on(serve):
    urls = serve("--drain-delay-secs", "2", "--exit-timeout-secs", LONG)
    all_clients = clients(urls)
    for client, module in all_clients:
        embed(client, module)
    urls.process.terminate()
    while is_ready(urls):
        pass
    for client, module in all_clients:
        assert not client.is_server_ready() and client.is_server_live()
        embed(client, module)
    assert urls.process.wait(timeout=60) == 0


def black_png(width, height):
    def chunk(tag, data):
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes((3 * width + 1) * height))) + chunk(b"IEND", b""))


def test_an_allocation_that_fails_costs_its_request_alone(serve, tmp_path):
    library = BUILD / "tests/libfailing_alloc.so"
    if not library.exists():
        skip("no failing_alloc: a sanitizer's build, whose allocator is its own")
    armed = tmp_path / "armed"
    # Decode workers have an environment of their own: none.
    urls = serve("--decode-workers", "off", LD_PRELOAD=str(library), SIGLIP_FAIL_FROM=str(4 << 20), SIGLIP_FAIL_WHILE=str(armed))
    # 9 MB of pixels in a file that is small, as gRPC's own allocations must not fail: it aborts (docs/reliability.md).
    large = black_png(2000, 1500)
    for client, module in clients(urls):
        reference = embed(client, module)
        client.infer("embed_image", [image_input(module, [large])])
        armed.touch()
        for model in ("embed_image", "siglip_vision", "siglip_vision_process"):
            with pytest.raises(InferenceServerException, match="memory"):
                client.infer(model, [image_input(module, [large])])
        if module is httpclient:  # the buffer of the body
            with pytest.raises(InferenceServerException, match="memory"):
                client.infer("embed_image", [image_input(module, [bytes(16 << 20)])])
            client = httpclient.InferenceServerClient(urls.http)  # that connection is closed
        np.testing.assert_array_equal(embed(client, module), reference)
        armed.unlink()
        client.infer("embed_image", [image_input(module, [large])])
    assert end(urls) == 0


def status_kb(process, key):
    lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


@pytest.mark.parametrize("keys, code", [(False, "INVALID_ARGUMENT"), (True, "UNAUTHENTICATED")])
def test_a_grpc_message_of_tiny_fields_costs_no_memory(serve, tmp_path, keys, code):
    """Two bytes on the wire, an empty input, are an object of 200 in protobuf's tree: 800 MB of 8."""
    (tmp_path / "keys").write_text("0123456789abcdef\n")
    urls = serve(*(["--api-key-file", tmp_path / "keys"] if keys else []))
    before = status_kb(urls.process, "VmHWM")
    with grpc.insecure_channel(urls.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", bytes, bytes)
        with pytest.raises(grpc.RpcError) as refused:
            infer(b"\x2a\x00" * 4_000_000)
    assert refused.value.code().name == code
    assert status_kb(urls.process, "VmHWM") - before < 100_000


def test_descriptors_that_run_out_cost_new_connections_alone(serve):
    """gRPC's own listener stops for good when it cannot accept."""
    urls = serve("--decode-workers", "1")
    old = clients(urls)
    before = [embed(client, module) for client, module in old]
    folder = pathlib.Path(f"/proc/{urls.process.pid}/fd")
    hard = resource.prlimit(urls.process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(urls.process.pid, resource.RLIMIT_NOFILE, (len(list(folder.iterdir())) + 40, hard))
    for address in (urls.grpc, urls.http):
        host, port = address.split(":")
        crowd = [socket.create_connection((host, int(port))) for _ in range(200)]
        for connection in crowd:
            try:
                connection.sendall(h2.PREFACE)
            except OSError:  # dropped
                pass
        kill_all(children(urls.process.pid))  # another worker needs descriptors
        for (client, module), expected in zip(old, before, strict=True):
            np.testing.assert_array_equal(embed(client, module), expected)
        for connection in crowd:
            connection.close()
    for client, module in clients(urls):  # new connections
        np.testing.assert_array_equal(embed(client, module), before[0])
    assert end(urls) == 0


def test_a_full_disk_costs_log_and_trace_alone(serve):
    urls = serve("--log-verbose", "1", "--trace-config", "triton,file=/dev/full", "--trace-config", "level=TIMESTAMPS",
                 "--trace-config", "rate=1", "--trace-config", "triton,log-frequency=0")
    both_towers(urls)
    http = httpclient.InferenceServerClient(urls.http)
    for _ in range(50):
        embed(http, httpclient)
    assert http.is_server_ready()
    assert end(urls) == 0
