"""The Triton backends in a real Triton core, against `siglip serve`. SIGLIP_TRITONSERVER names the program (./test takes
the one in the wheel nvidia-pytriton); SIGLIP_BUILD_DIR must be a build without sanitizers."""

import base64
import contextlib
import os
import pathlib
import queue
import re
import socket
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from conftest import ROOT, skip, start_server

SEVEN = (ROOT / "data/demo/examples/seven.png").read_bytes()
CIRCLE = (ROOT / "data/demo/examples/red_circle.jpg").read_bytes()
MODELS = ["siglip_vision_process", "siglip_vision_model", "siglip_vision", "siglip_text", "embed_image", "embed_text"]
# What a container brings: everything else must lie beside the backends.
RUNTIMES = re.compile(r"(linux-vdso|ld-linux.*|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+))\.so")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(name="backends", scope="module")
def backends_fixture(tmp_path_factory):
    if "SIGLIP_TRITONSERVER" not in os.environ:
        skip("no Triton core: SIGLIP_TRITONSERVER is not set")
    folder = tmp_path_factory.mktemp("backends")
    build = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci")
    subprocess.run(["cmake", "--install", str(build), "--component", "triton", "--prefix", str(folder)],
                   check=True, stdout=subprocess.DEVNULL)
    return folder


@contextlib.contextmanager
def running_core(backends, log, *arguments, repository=ROOT / "model_repository"):
    """(HTTP client, gRPC client, address of the metrics) of a tritonserver."""
    http, grpc, metrics = free_ports(3)
    command = [os.environ["SIGLIP_TRITONSERVER"], f"--model-repository={repository}",
               f"--backend-directory={backends}", "--backend-config=siglip,precision=fp32",
               "--model-control-mode=explicit", "--load-model=*", "--allow-gpu-metrics=false",
               f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}", *arguments]
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    client = httpclient.InferenceServerClient(f"127.0.0.1:{http}", concurrency=16)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                if client.is_server_ready():
                    break
            except OSError:
                pass
            time.sleep(0.1)
        else:
            pytest.fail(f"tritonserver is not ready:\n{log.read_text()}")
        yield client, grpcclient.InferenceServerClient(f"127.0.0.1:{grpc}"), f"127.0.0.1:{metrics}"
    finally:
        client.close()  # an open connection would hold the exit up
        process.terminate()
        assert process.wait(timeout=60) == 0, log.read_text()


@pytest.fixture(name="core", scope="module")
def core_fixture(backends, tmp_path_factory):
    """(HTTP client, gRPC client) of a tritonserver with model_repository/ as it is."""
    with running_core(backends, tmp_path_factory.mktemp("triton") / "log") as clients:
        yield clients[:2]


@pytest.fixture(name="native", scope="module")
def native_fixture():
    urls = start_server(["--precision", "fp32"])
    yield grpcclient.InferenceServerClient(urls.grpc)
    urls.process.terminate()
    urls.process.wait(timeout=40)


def infer(client, model, name, rows, **options):
    module = httpclient if isinstance(client, httpclient.InferenceServerClient) else grpcclient
    array = rows if isinstance(rows, np.ndarray) else np.array([[row] for row in rows], dtype=object)
    datatype = {np.dtype(object): "BYTES", np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}[array.dtype]
    tensor = module.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    output = "PIXEL_VALUES" if model == "siglip_vision_process" else "EMBEDDING"
    return client.infer(model, [tensor], **options).as_numpy(output)


def test_libraries_bring_what_they_need(backends):
    for library in sorted(backends.glob("*/libtriton_*.so")):
        lines = subprocess.run(["ldd", str(library)], check=True, capture_output=True, text=True).stdout.splitlines()
        for line in lines:
            if RUNTIMES.match(pathlib.Path(line.split()[0]).name):
                continue
            path = pathlib.Path(line.split("=>")[1].split()[0]).resolve()
            assert path.is_relative_to(backends.resolve()), f"{library.name}: {line.strip()}"


def test_every_deployment_equals_siglip_serve(core, native):
    images = [SEVEN, CIRCLE]
    for client in core:
        pixels = infer(client, "siglip_vision_process", "INPUT_IMAGE", images)
        np.testing.assert_array_equal(pixels, infer(native, "siglip_vision_process", "INPUT_IMAGE", images))
        expected = infer(native, "embed_image", "INPUT_IMAGE", images)
        np.testing.assert_array_equal(infer(client, "siglip_vision_model", "PIXEL_VALUES", pixels), expected)
        np.testing.assert_array_equal(infer(client, "siglip_vision", "INPUT_IMAGE", images), expected)
        np.testing.assert_array_equal(infer(client, "embed_image", "INPUT_IMAGE", images), expected)
        encoded = [base64.b64encode(image) for image in images]
        np.testing.assert_array_equal(
            infer(client, "embed_image", "INPUT_IMAGE", encoded, parameters={"base64_encoded": True}), expected)
        texts = ["a photo of seven".encode(), "été".encode()]
        np.testing.assert_array_equal(infer(client, "embed_text", "INPUT_TEXT", texts),
                                      infer(native, "embed_text", "INPUT_TEXT", texts))
        ids = np.array([[4, 11, 8, 6, 142] + [1] * 27], dtype=np.int64)
        np.testing.assert_array_equal(infer(client, "siglip_text", "INPUT_IDS", ids),
                                      infer(native, "siglip_text", "INPUT_IDS", ids))


def test_errors_are_those_of_siglip_serve(core, native):
    refused = [
        ("embed_image", "INPUT_IMAGE", [b"no image"], {}),
        ("embed_image", "INPUT_IMAGE", [SEVEN, b"no image", CIRCLE], {"request_id": "x"}),
        ("siglip_vision_process", "INPUT_IMAGE", [SEVEN, b"no image"], {"request_id": "x"}),
        ("embed_image", "INPUT_IMAGE", [b"!a"], {"parameters": {"base64_encoded": True}}),
        ("embed_image", "INPUT_IMAGE", [SEVEN], {"parameters": {"base64_encoded": "yes"}}),
        ("embed_image", "INPUT_IMAGE", [SEVEN], {"parameters": {"embed_model": "siglip_text"}}),
        ("embed_image", "INPUT_IMAGE", [SEVEN], {"parameters": {"embed_model": "embed_image"}}),
        ("embed_text", "INPUT_TEXT", [b"\xff"], {}),
        ("siglip_text", "INPUT_IDS", np.full([1, 32], 1 << 40, np.int64), {}),
    ]
    for model, name, rows, options in refused:
        texts = []
        for client in (core[1], native):
            with pytest.raises(InferenceServerException) as error:
                infer(client, model, name, rows, **options)
            # Triton's core says where in an ensemble an error came from.
            texts.append((error.value.status(), error.value.message().replace("in ensemble 'siglip_vision', ", "")))
        assert texts[0] == texts[1], (model, options)
    with pytest.raises(InferenceServerException, match="embed_model.*nope"):
        infer(core[1], "embed_image", "INPUT_IMAGE", [SEVEN], parameters={"embed_model": "nope"})


def text_request(rows, model="embed_text", datatype="BYTES", request_id=""):
    raw = b"".join(struct.pack("<I", len(row)) + row for row in rows)
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[raw])
    request.inputs.add(name="INPUT_TEXT", datatype=datatype, shape=[len(rows), 1])
    return request


def streamed(client, requests, headers):
    """What comes back of each request, sent when the one before was answered, and the code that the stream ends with."""
    answered, answers = queue.Queue(), []

    def send():
        for request in requests:
            yield request
            answered.get()

    stream = client._client_stub.ModelStreamInfer(send(), metadata=headers, timeout=60)
    try:
        for answer in stream:
            got = answer.infer_response
            answers.append((bool(answer.error_message), got.id, got.model_name, got.model_version,
                            len(got.raw_output_contents),
                            {key: value.bool_param for key, value in got.parameters.items()}))
            answered.put(None)
    except grpc.RpcError:
        pass
    answered.put(None)
    return answers, stream.code()


def test_streams_are_those_of_siglip_serve(core, native):
    good, bad = text_request([b"star"], request_id="good"), text_request([b"\xff"], request_id="bad")
    asking = text_request([b"star"], request_id="asking")
    asking.parameters["triton_enable_empty_final_response"].bool_param = True
    versioned = text_request([b"\xff"], request_id="versioned")
    versioned.model_version = "1"
    refused = [text_request([b"star"], model="nope", request_id="unknown"),
               text_request([b"star"], datatype="INT64", request_id="datatype")]
    # With triton_grpc_error=true they are alike too, but this core sometimes dies of it (signal 11).
    for headers in [(), (("triton_grpc_error", "false"),)]:
        expected, got = (streamed(client, [good, asking, *refused, good, bad, versioned], headers)
                         for client in (core[1], native))
        assert got == expected, headers
        assert expected[0][0][5] == {"triton_final_response": True} and expected[0][2][5] == {}
        assert len(expected[0]) == 7


def test_refusals_have_the_codes_of_siglip_serve(core, native):
    """Rules of requests that clients could meet, and what is there that is no model."""
    def changed(change):
        request = text_request([b"star"])
        change(request)
        return request

    def parameter(key, kind, value):
        return changed(lambda r: setattr(r.parameters[key], kind, value))

    def output(key, kind, value, count=1):
        return changed(lambda r: [setattr(r.outputs.add(name="EMBEDDING").parameters[key], kind, value)
                                  for _ in range(count)])

    requests = [text_request([b"star"]),
                parameter("timeout", "int64_param", -1), parameter("timeout", "uint64_param", 1),
                parameter("sequence_id", "int64_param", -5), parameter("sequence_id", "uint64_param", 5),
                parameter("priority", "int64_param", -1), parameter("k", "uint64_param", 1),
                parameter("triton_x", "bool_param", True), output("k", "int64_param", 1, 2),
                output("classification", "int64_param", 0), output("classification", "int64_param", 1)]
    requests += [changed(lambda r, v=version: setattr(r, "model_version", v))
                 for version in ("1", "2", "a", "-1", "99999999999999999999")]
    for request in requests:
        expected, got = (code_of(client._client_stub.ModelInfer, request) for client in (core[1], native))
        assert got == expected, request
    for version in ("1", "2", "a"):
        for call in ("ModelReady", "ModelConfig", "ModelStatistics"):
            request = getattr(service_pb2, call + "Request")(name="embed_text", version=version)
            expected, got = (code_of(getattr(client._client_stub, call), request) for client in (core[1], native))
            assert got == expected, (call, version)
    request = service_pb2.TraceSettingRequest(model_name="nope")
    assert code_of(core[1]._client_stub.TraceSetting, request) == code_of(native._client_stub.TraceSetting, request)
    request = service_pb2.RepositoryModelLoadRequest(model_name="nope")
    assert code_of(core[1]._client_stub.RepositoryModelLoad, request) == grpc.StatusCode.INTERNAL


def code_of(call, request):
    try:
        call(request, timeout=60)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_sixty_items_and_sixty_clients(core):
    http, grpc = core
    expected = infer(grpc, "embed_image", "INPUT_IMAGE", [SEVEN])
    rows = infer(grpc, "embed_image", "INPUT_IMAGE", [SEVEN] * 60)
    np.testing.assert_array_equal(rows, np.repeat(expected, 60, axis=0))
    before = {s["name"]: s for s in http.get_inference_statistics()["model_stats"]}
    with ThreadPoolExecutor(60) as pool:
        for answer in pool.map(lambda _: infer(grpc, "embed_image", "INPUT_IMAGE", [SEVEN]), range(180)):
            np.testing.assert_array_equal(answer, expected)
    after = {s["name"]: s for s in http.get_inference_statistics()["model_stats"]}
    for model in ("embed_image", "siglip_vision", "siglip_vision_process", "siglip_vision_model"):
        assert after[model]["inference_count"] - before[model]["inference_count"] == 180, model
        stats = after[model]["inference_stats"]
        assert stats["compute_input"]["count"] == stats["compute_infer"]["count"] == stats["compute_output"]["count"]
        assert after[model]["execution_count"] == sum(b["compute_infer"]["count"] for b in after[model]["batch_stats"])


def test_config_is_completed_from_the_checkpoint(core):
    http, _ = core
    assert http.get_model_metadata("siglip_vision_process")["outputs"][0]["shape"] == [-1, 3, 48, 48]
    assert http.get_model_metadata("embed_text")["outputs"][0]["shape"] == [-1, 128]
    assert http.get_model_config("siglip_text")["input"][0]["dims"] == [32]


def test_configurations_are_printed_alike(core, native):
    for model in MODELS:
        ours, theirs = (client.get_model_config(model, as_json=True)["config"] for client in (native, core[1]))
        for field in ("model_transaction_policy", "dynamic_batching", "version_policy", "max_batch_size"):
            assert ours.get(field) == theirs.get(field), (model, field)
        names = [[group["name"] for group in config.get("instance_group", [])] for config in (ours, theirs)]
        assert names[0] == names[1], model


def test_load_and_unload(core):
    http, grpc = core
    expected = infer(grpc, "embed_text", "INPUT_TEXT", [b"star"])
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(infer, grpc, "embed_text", "INPUT_TEXT", [b"star"]) for _ in range(40)]
        http.unload_model("embed_text")
        for answer in answers:  # answered or refused, never lost
            error = answer.exception(timeout=60)
            assert error is None or isinstance(error, InferenceServerException), error
    http.load_model("embed_text")
    np.testing.assert_array_equal(infer(grpc, "embed_text", "INPUT_TEXT", [b"star"]), expected)
    http.unload_model("siglip_text")
    for _ in range(100):
        if not http.is_model_ready("siglip_text"):
            break
        time.sleep(0.1)
    with pytest.raises(InferenceServerException, match="embed_model"):
        infer(grpc, "embed_text", "INPUT_TEXT", [b"star"])
    http.load_model("siglip_text")
    np.testing.assert_array_equal(infer(grpc, "embed_text", "INPUT_TEXT", [b"star"]), expected)
    assert all(http.is_model_ready(model) for model in MODELS)
