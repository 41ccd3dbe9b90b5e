"""The Triton backends in a real Triton core, against `siglip serve`. SIGLIP_TRITONSERVER names the program (./test takes
the one in the wheel nvidia-pytriton); SIGLIP_BUILD_DIR must be a build without sanitizers."""

import base64
import os
import pathlib
import re
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
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


@pytest.fixture(name="core", scope="module")
def core_fixture(backends, tmp_path_factory):
    """(HTTP client, gRPC client) of a tritonserver with model_repository/ as it is."""
    http, grpc, metrics = free_ports(3)
    log = tmp_path_factory.mktemp("triton") / "log"
    command = [os.environ["SIGLIP_TRITONSERVER"], f"--model-repository={ROOT}/model_repository",
               f"--backend-directory={backends}", "--backend-config=siglip,precision=fp32",
               "--model-control-mode=explicit", "--load-model=*", "--allow-gpu-metrics=false",
               f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
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
        yield client, grpcclient.InferenceServerClient(f"127.0.0.1:{grpc}")
    finally:
        client.close()  # an open connection would hold the exit up
        process.terminate()
        assert process.wait(timeout=60) == 0, log.read_text()


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
