"""Conformance with the unchanged tritonclient: http, grpc and aio, every deployment, every form."""

import asyncio
import base64
import json
import struct
import urllib.error
import urllib.request
import zlib

import numpy as np
import pytest

grpcclient = pytest.importorskip("tritonclient.grpc", reason="SIGLIP_TEST_SKIPPED: no tritonclient")
httpclient = pytest.importorskip("tritonclient.http", reason="SIGLIP_TEST_SKIPPED: no tritonclient")
import tritonclient.grpc.aio as grpcaio
import tritonclient.http.aio as httpaio
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

DEPLOYMENTS = {"siglip_vision_process", "siglip_vision_model", "siglip_vision", "siglip_text",
               "embed_image", "embed_text"}
IMAGE_MODELS = ["embed_image", "siglip_vision", "siglip_vision_process"]


def make_png(seed, width=40, height=30):
    """A PNG of seeded noise, written by hand: the clients' environment has no image library."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(tag, data):
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw))
            + chunk(b"IEND", b""))


PNG = [make_png(i) for i in range(3)]


def output_of(model):
    return "PIXEL_VALUES" if model == "siglip_vision_process" else "EMBEDDING"


def image_input(module, images, encode=False):
    data = [base64.b64encode(image) if encode else image for image in images]
    tensor = module.InferInput("INPUT_IMAGE", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(data, dtype=object).reshape(-1, 1))
    return tensor


def text_input(module, texts):
    tensor = module.InferInput("INPUT_TEXT", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(
        np.array([text.encode() for text in texts], dtype=object).reshape(-1, 1))
    return tensor


def post(server, path, body, headers=None):
    request = urllib.request.Request(f"http://{server.http}{path}", data=body, method="POST",
                                     headers=headers or {})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def raw_infer(server, model, body):
    """The contract's first form: the file is the body. Returns status and tensor or error text."""
    status, headers, content = post(server, f"/v2/models/{model}/infer", body,
                                    {"Content-Type": "application/octet-stream",
                                     "Inference-Header-Content-Length": "0"})
    if status != 200:
        return status, json.loads(content)["error"]
    head = int(headers["Inference-Header-Content-Length"])
    output = json.loads(content[:head])["outputs"][0]
    assert output["parameters"] == {"binary_data_size": len(content) - head}
    return status, np.frombuffer(content[head:], "<f4").reshape(output["shape"])


@pytest.fixture(scope="module")
def http(server):
    with httpclient.InferenceServerClient(server.http, concurrency=4) as client:
        yield client


@pytest.fixture(scope="module")
def grpc(server):
    with grpcclient.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture(params=["http", "grpc"])
def door(request, http, grpc):
    return (http, httpclient) if request.param == "http" else (grpc, grpcclient)


def as_dict(door, result):
    client, module = door
    return result if module is httpclient else json.loads(
        __import__("google.protobuf.json_format", fromlist=["MessageToJson"]).MessageToJson(
            result, preserving_proto_field_name=True))


def dims_of(door, model):
    metadata = as_dict(door, door[0].get_model_metadata(model))
    return [int(d) for d in metadata["outputs"][0]["shape"]]


# Health, metadata, config, statistics, index.

def test_health(door):
    client, _ = door
    assert client.is_server_live() and client.is_server_ready()
    for model in DEPLOYMENTS:
        assert client.is_model_ready(model) and client.is_model_ready(model, "1")


def test_server_metadata(door):
    metadata = as_dict(door, door[0].get_server_metadata())
    assert metadata["name"] == "triton" and metadata["version"]
    assert {"statistics", "binary_tensor_data", "model_configuration"} <= set(metadata["extensions"])


@pytest.mark.parametrize("model", sorted(DEPLOYMENTS))
def test_model_metadata_and_config(door, model):
    metadata = as_dict(door, door[0].get_model_metadata(model))
    assert metadata["name"] == model and metadata["versions"] == ["1"]
    assert metadata["platform"] == ("ensemble" if model == "siglip_vision" else metadata["platform"])
    for tensor in metadata["inputs"] + metadata["outputs"]:
        assert int(tensor["shape"][0]) == -1
    config = as_dict(door, door[0].get_model_config(model))
    config = config.get("config", config)
    assert config["name"] == model
    assert int(config["max_batch_size"]) == (60 if model.startswith("embed_") else 32)
    assert config["version_policy"]["latest"]["num_versions"] == 1
    if model == "siglip_vision":
        steps = [step["model_name"] for step in config["ensemble_scheduling"]["step"]]
        assert steps == ["siglip_vision_process", "siglip_vision_model"]
        assert config["platform"] == "ensemble" and not config.get("instance_group")
    else:
        assert config["instance_group"][0]["kind"] in ("KIND_CPU", "KIND_GPU")


def test_index(door):
    client, module = door
    index = as_dict(door, client.get_model_repository_index())
    rows = index if module is httpclient else index["models"]
    assert {row["name"] for row in rows} == DEPLOYMENTS
    assert all(row["state"] == "READY" and row["version"] == "1" for row in rows)


def test_statistics_count_every_composing_model(door):
    client, module = door

    def counts():
        rows = as_dict(door, client.get_inference_statistics())["model_stats"]
        return {row["name"]: row for row in rows}

    before = counts()
    client.infer("embed_image", [image_input(module, [PNG[0]])])
    after = counts()
    for model in ("embed_image", "siglip_vision", "siglip_vision_process", "siglip_vision_model"):
        old, new = before[model]["inference_stats"], after[model]["inference_stats"]
        delta = {key: int(new[key].get("count", 0)) - int(old[key].get("count", 0)) for key in new}
        assert delta["success"] == delta["queue"] == 1, (model, delta)
        assert delta["compute_input"] == delta["compute_infer"] == delta["compute_output"] == 1
        assert int(after[model]["inference_count"]) - int(before[model].get("inference_count", 0)) == 1
    assert {row["name"] for row in as_dict(door, client.get_inference_statistics("siglip_text"))[
        "model_stats"]} == {"siglip_text"}


def test_settings_and_shared_memory(door):
    client, module = door
    assert "OFF" in json.dumps(as_dict(door, client.get_trace_settings()))
    assert "log_info" in json.dumps(as_dict(door, client.get_log_settings()))
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    assert not client.get_system_shared_memory_status(**({} if module is httpclient else {"as_json": True}))
    with pytest.raises(InferenceServerException, match="shared memory is disabled"):
        client.register_system_shared_memory("r", "/r", 64)
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="explicit model load / unload"):
            call("embed_image")


# Inference: every form gives the same numbers.

@pytest.mark.parametrize("model", IMAGE_MODELS)
def test_image_forms_agree(server, http, grpc, model):
    name = output_of(model)
    status, reference = raw_infer(server, model, PNG[0])
    assert status == 200 and reference.dtype == np.float32 and np.isfinite(reference).all()
    binary = httpclient.InferRequestedOutput(name, binary_data=True)
    plain = httpclient.InferRequestedOutput(name, binary_data=False)
    answers = [
        http.infer(model, [image_input(httpclient, [PNG[0]])], outputs=[binary]),
        http.infer(model, [image_input(httpclient, [PNG[0]])], outputs=[plain]),
        http.infer(model, [image_input(httpclient, [PNG[0]])], request_compression_algorithm="gzip",
                   response_compression_algorithm="deflate"),
        grpc.infer(model, [image_input(grpcclient, [PNG[0]])]),
        grpc.infer(model, [image_input(grpcclient, [PNG[0]])], model_version="1",
                   compression_algorithm="gzip", request_id="r1"),
    ]
    for answer in answers:
        np.testing.assert_array_equal(answer.as_numpy(name), reference)
    assert answers[-1].get_response().id == "r1"


def test_base64_forms_agree(server, http, grpc):
    _, reference = raw_infer(server, "embed_image", PNG[1])
    text = base64.b64encode(PNG[1]).decode()
    body = json.dumps({"inputs": [{"name": "INPUT_IMAGE", "shape": [1, 1], "datatype": "BYTES",
                                   "data": [text]}], "parameters": {"base64_encoded": True}})
    status, _, content = post(server, "/v2/models/embed_image/infer", body.encode())
    assert status == 200, content
    values = np.array(json.loads(content)["outputs"][0]["data"], np.float32)
    np.testing.assert_array_equal(values, reference.ravel())
    for client, module in ((http, httpclient), (grpc, grpcclient)):
        answer = client.infer("embed_image", [image_input(module, [PNG[1]], encode=True)],
                              parameters={"base64_encoded": True})
        np.testing.assert_array_equal(answer.as_numpy("EMBEDDING"), reference)


def test_batches_equal_singles(server, door):
    client, module = door
    answer = client.infer("embed_image", [image_input(module, PNG)]).as_numpy("EMBEDDING")
    singles = np.concatenate([raw_infer(server, "embed_image", image)[1] for image in PNG])
    np.testing.assert_allclose(answer, singles, rtol=0, atol=1e-5 * np.abs(singles).max())


def test_pixel_values_go_through_the_vision_model(server, door):
    client, module = door
    _, pixels = raw_infer(server, "siglip_vision_process", PNG[0])
    tensor = module.InferInput("PIXEL_VALUES", list(pixels.shape), "FP32")
    tensor.set_data_from_numpy(np.ascontiguousarray(pixels))
    answer = client.infer("siglip_vision_model", [tensor]).as_numpy("EMBEDDING")
    _, reference = raw_infer(server, "siglip_vision", PNG[0])
    np.testing.assert_allclose(answer, reference, rtol=0, atol=1e-5 * np.abs(reference).max())


def test_pixel_values_as_json(server, http):
    _, pixels = raw_infer(server, "siglip_vision_process", PNG[0])
    tensor = httpclient.InferInput("PIXEL_VALUES", list(pixels.shape), "FP32")
    tensor.set_data_from_numpy(np.ascontiguousarray(pixels), binary_data=False)
    answer = http.infer("siglip_vision_model", [tensor]).as_numpy("EMBEDDING")
    _, reference = raw_infer(server, "siglip_vision", PNG[0])
    np.testing.assert_allclose(answer, reference, rtol=0, atol=1e-5 * np.abs(reference).max())


def test_text_models(door):
    client, module = door
    answer = client.infer("embed_text", [text_input(module, ["a red circle", "seven"])])
    embedding = answer.as_numpy("EMBEDDING")
    assert embedding.shape[0] == 2 and np.isfinite(embedding).all()
    length = int(as_dict(door, client.get_model_metadata("siglip_text"))["inputs"][0]["shape"][1])
    ids = module.InferInput("INPUT_IDS", [1, length], "INT64")
    ids.set_data_from_numpy(np.ones((1, length), np.int64))
    assert client.infer("siglip_text", [ids]).as_numpy("EMBEDDING").shape[1] == embedding.shape[1]


def test_raw_text(server, door):
    client, module = door
    reference = client.infer("embed_text", [text_input(module, ["seven"])]).as_numpy("EMBEDDING")
    status, embedding = raw_infer(server, "embed_text", b"seven")
    assert status == 200
    np.testing.assert_array_equal(embedding, reference)


def test_streams_answer_in_order(grpc):
    answers = []
    grpc.start_stream(callback=lambda result, error: answers.append((result, error)))
    for i in range(6):
        data = PNG[i % 3] if i != 3 else b"not an image"
        grpc.async_stream_infer("embed_image", [image_input(grpcclient, [data])], request_id=str(i))
    grpc.stop_stream()
    assert len(answers) == 6
    for i, (result, error) in enumerate(answers):
        if i == 3:
            assert error is not None and result is None
        else:
            assert error is None and result.get_response().id == str(i)
            # What clients of Triton loop until.
            assert result.get_response().parameters["triton_final_response"].bool_param


def test_a_stream_may_end_with_a_models_error(grpc):
    """The header of Triton's, without which errors are answers and the stream goes on."""
    answers = []
    grpc.start_stream(callback=lambda result, error: answers.append((result, error)),
                      headers={"triton_grpc_error": "true"})
    for i, model in enumerate(["embed_image", "nope", "embed_image", "embed_image"]):
        data = PNG[i % 3] if i != 2 else b"not an image"
        grpc.async_stream_infer(model, [image_input(grpcclient, [data])], request_id=str(i))
    grpc.stop_stream()
    assert len(answers) == 3
    assert answers[0][1] is None and answers[0][0].get_response().id == "0"
    assert "unknown model" in str(answers[1][1]), "a refusal stays an answer"
    assert answers[2][1].status() == "StatusCode.INVALID_ARGUMENT" and "expected an image file" in str(answers[2][1])


def test_asynchronous_clients(server):
    async def run():
        async with httpaio.InferenceServerClient(server.http) as client:
            answers = await asyncio.gather(*(
                client.infer("embed_image", [image_input(httpclient, [PNG[i % 3]])]) for i in range(12)))
            first = [answer.as_numpy("EMBEDDING") for answer in answers]
        async with grpcaio.InferenceServerClient(server.grpc) as client:
            answers = await asyncio.gather(*(
                client.infer("embed_image", [image_input(grpcclient, [PNG[i % 3]])]) for i in range(12)))
            second = [answer.as_numpy("EMBEDDING") for answer in answers]
        return first, second

    first, second = asyncio.run(run())
    scale = 1e-5 * np.abs(first[0]).max()
    for a, b in zip(first, second):
        np.testing.assert_allclose(a, b, rtol=0, atol=scale)


def test_classification_returns_strings(door):
    client, module = door
    output = module.InferRequestedOutput("EMBEDDING", class_count=2)
    answer = client.infer("embed_image", [image_input(module, [PNG[0]])], outputs=[output])
    rows = answer.as_numpy("EMBEDDING")
    assert rows.shape == (1, 2) and b":" in rows[0, 0]


# Refusals: to the caller alone, with code and text.

@pytest.mark.parametrize("body", [b"", b"not an image", PNG[0][:60], b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("model", IMAGE_MODELS)
def test_bad_images_are_400(server, model, body):
    status, text = raw_infer(server, model, body)
    assert status == 400 and text
    assert raw_infer(server, model, PNG[0])[0] == 200


def refusal(door, model, inputs, **kwargs):
    with pytest.raises(InferenceServerException) as caught:
        door[0].infer(model, inputs, **kwargs)
    return caught.value


def test_refusals(door):
    client, module = door
    grpc_door = module is grpcclient
    invalid = "StatusCode.INVALID_ARGUMENT" if grpc_door else "400"
    missing = "StatusCode.NOT_FOUND" if grpc_door else "404"
    error = refusal(door, "nope", [image_input(module, [PNG[0]])])
    assert error.status() == missing and "unknown model" in error.message()
    error = refusal(door, "embed_image", [image_input(module, [PNG[0]])], model_version="9")
    assert error.status() == missing
    wrong = module.InferInput("OTHER", [1, 1], "BYTES")
    wrong.set_data_from_numpy(np.array([[b"x"]], dtype=object))
    assert refusal(door, "embed_image", [wrong]).status() == invalid
    wrong = module.InferInput("INPUT_IMAGE", [1, 1], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 1), np.float32))
    assert refusal(door, "embed_image", [wrong]).status() == invalid
    wrong = module.InferInput("INPUT_IMAGE", [1, 2], "BYTES")
    wrong.set_data_from_numpy(np.array([[b"x", b"y"]], dtype=object))
    assert refusal(door, "embed_image", [wrong]).status() == invalid
    error = refusal(door, "siglip_vision", [image_input(module, [PNG[0]] * 33)])
    assert error.status() == invalid and "32" in error.message()
    error = refusal(door, "embed_image", [image_input(module, [b"%%%"])],
                    parameters={"base64_encoded": True})
    assert error.status() == invalid
    error = refusal(door, "embed_image", [image_input(module, [PNG[0]])],
                    parameters={"embed_model": "nope"})
    assert error.status() == invalid
    error = refusal(door, "embed_image", [image_input(module, [PNG[0]])],
                    outputs=[module.InferRequestedOutput("OTHER")])
    assert error.status() == invalid
    error = refusal(door, "embed_text", [text_input(module, ["x"])], parameters={"embed_model": "nope"})
    assert error.status() == invalid


def test_one_bad_image_names_its_place(door):
    client, module = door
    error = refusal(door, "embed_image", [image_input(module, [PNG[0], b"bad", PNG[1]])])
    assert "1" in error.message()


def test_invalid_utf8_text_is_refused(door):
    client, module = door
    tensor = module.InferInput("INPUT_TEXT", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"abc\xff"]], dtype=object))
    assert "3" in refusal(door, "embed_text", [tensor]).message()


@pytest.mark.parametrize("length", ["99999999999", "-1", "1000000", "abc"])
def test_hostile_header_length(server, length):
    status, _, body = post(server, "/v2/models/embed_image/infer", b"{}",
                           {"Inference-Header-Content-Length": length})
    assert status == 400 and "inference header size" in json.loads(body)["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs":1}', b"\xff", b"[" * 100000])
def test_broken_json(server, body):
    status, _, answer = post(server, "/v2/models/embed_image/infer", body)
    assert status == 400 and json.loads(answer)["error"]


def test_binary_tail_by_hand(server):
    tail = serialize_byte_tensor(np.array([PNG[0]], dtype=object)).item()
    head = json.dumps({"id": "x", "inputs": [
        {"name": "INPUT_IMAGE", "shape": [1, 1], "datatype": "BYTES",
         "parameters": {"binary_data_size": len(tail)}}]}).encode()
    status, _, answer = post(server, "/v2/models/embed_image/infer", head + tail,
                             {"Inference-Header-Content-Length": str(len(head))})
    assert status == 200 and json.loads(answer)["id"] == "x"
    for bad in (tail[:-1], tail + b"x"):
        assert post(server, "/v2/models/embed_image/infer", head + bad,
                    {"Inference-Header-Content-Length": str(len(head))})[0] == 400


# Metrics.

def test_metrics(server):
    if not server.metrics:
        pytest.skip("SIGLIP_TEST_SKIPPED: SIGLIP_METRICS_URL is not set")
    raw_infer(server, "embed_image", PNG[0])
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        text = response.read().decode()
    for model in DEPLOYMENTS:
        assert f'nv_inference_request_success{{model="{model}",version="1"}}' in text
    for name in ("nv_inference_count", "nv_inference_exec_count", "nv_inference_request_duration_us",
                 "nv_inference_queue_duration_us", "nv_inference_compute_infer_duration_us",
                 "nv_inference_pending_request_count", "nv_cpu_utilization",
                 "nv_cpu_memory_total_bytes", 'reason="REJECTED"'):
        assert name in text, name
