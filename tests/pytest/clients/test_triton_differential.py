"""The same requests to the front doors of a real Triton, which serves our backends, and to those of `siglip serve`: the
status, and what a client reads of the answer, are the same. What differs on purpose (docs/protocol.md) is not in the
tables. Texts of errors are compared where they are Triton's; its `<id_unknown>` is not ours. SIGLIP_TRITONSERVER as in
test_triton_core.py."""

import gzip
import http.client
import json
import os
import pathlib
import re
import struct
import subprocess
import time

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from conftest import ROOT, start_server
from test_triton_core import (SEVEN, backends_fixture, core_fixture, running_core,  # noqa: F401 (fixtures)
                              text_request)

MODEL = "/v2/models/embed_text"
INFER = MODEL + "/infer"
TEXT = {"name": "INPUT_TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["star"]}
BINARY = {"name": "INPUT_TEXT", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 8}}
STAR = struct.pack("<I", 4) + b"star"
RAW = {"Inference-Header-Content-Length": "0"}
REGION = "siglip_test_differential"


@pytest.fixture(name="both", scope="module")
def both_fixture(core):
    """(HTTP address, gRPC stub) of Triton and of ours."""
    client, grpc_client = core
    urls = start_server(["--model-repository", str(ROOT / "model_repository"), "--precision", "fp32",
                         "--model-control-mode", "explicit", "--load-model", "*", "--allow-client-shm", "true"])
    try:
        with grpc.insecure_channel(urls.grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            triton = f"127.0.0.1:{client._client_stub.port}"
            yield [(triton, grpc_client._client_stub), (urls.http, stub)]
    finally:
        urls.process.terminate()
        urls.process.wait(timeout=40)


def shape(value, key=""):
    """An answer without what differs from run to run."""
    if isinstance(value, dict):
        return {k: shape(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(v) for v in value] if len(value) < 100 else len(value)
    return "a number" if isinstance(value, float) or key in ("ns", "last_inference") else value


def text_of(error):
    return error.replace("[request id: <id_unknown>] ", "")


def ask(address, method, path, body=None, headers=None):
    """(status, encoding, whether there are binary blocks, what was answered)"""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        raw = response.read()
    finally:
        connection.close()
    encoding, length = response.getheader("Content-Encoding"), response.getheader("Inference-Header-Content-Length")
    if encoding == "gzip":
        raw = gzip.decompress(raw)
    head, blocks = (raw[:int(length)], len(raw) - int(length)) if length else (raw, None)
    text = head.decode().removeprefix("data: ")
    answer = shape(json.loads(text)) if text.startswith(("{", "[")) else text
    if isinstance(answer, dict) and "error" in answer:
        answer = text_of(answer["error"])
    return response.status, encoding, blocks, answer


def infer(tensor=None, **more):
    return {"inputs": [tensor or TEXT], **more}


def output(**parameters):
    return infer(outputs=[{"name": "EMBEDDING", "parameters": parameters}])


def with_tail(head, tail):
    text = json.dumps(head).encode()
    return text + tail, {"Inference-Header-Content-Length": str(len(text))}


# Whose texts are Triton's too.
SAME_HTTP = [
    *[("GET", path) for path in (
        "/v2/health/live", "/v2/health/ready", "/v2/health", MODEL, MODEL + "/", MODEL + "/versions/1", MODEL + "?x=1",
        MODEL + "/versions/2", MODEL + "/versions/a", MODEL + "/ready", MODEL + "/versions/2/ready", "/v2/models/nope",
        "/v2/models/nope/ready", "/v2/models/nope/config", "/v2/models/nope/stats", "/v2/models/nope/versions/1/stats",
        MODEL + "/versions/2/stats", "/v2/models/embed%5Ftext", "/v2/models/nope/trace/setting", "/v2/trace/setting",
        "/v2/logging", INFER, "/v2/repository/index", "/v2/systemsharedmemory/status",
        "/v2/systemsharedmemory/region/x/status", "/v2/cudasharedmemory/region/x/status")],
    *[(method, path) for method in ("PUT", "DELETE", "OPTIONS") for path in ("/v2", INFER, "/v2/logging", "/nope")],
    ("POST", "/v2/repository/index"), ("POST", "/v2/repository/index", {"ready": True}),
    ("POST", "/v2/systemsharedmemory/unregister"), ("POST", "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
    ("POST", "/v2/logging", {"log_info": None}), ("POST", "/v2/logging", {"log_file": "x"}),
    *[("POST", INFER, body) for body in (
        infer(), infer(id="é"), infer(id=""), infer({**TEXT, "parameters": None}), infer(outputs=[]), output(),
        infer(outputs=[{"name": "EMBEDDING", "parameters": None}]), infer(outputs=[{"name": "EMBEDDING"}] * 2),
        infer(parameters={"binary_data_output": True}), output(binary_data=True), output(classification=0),
        output(classification=1), output(classification=1000), output(classification=2**32 - 1),
        infer(parameters={"sequence_id": "x", "priority": 1}),
        *[infer(parameters={"sequence_id": text}) for text in ("x" * 128, "x" * 129, "é" * 65)],
        *[infer({**TEXT, "parameters": value}, outputs=[{"name": "EMBEDDING", "parameters": value}])
          for value in ([], [{"binary_data": True}], 5, "x", True)],
        infer(parameters={"a": 2**64, "b": 1.5, "c": "x", "d": True}), infer({**TEXT, "shape": [1], "data": ["a"]}),
        infer({**TEXT, "shape": [61, 1], "data": ["a"] * 61}), infer(outputs=[{"name": "X"}]),
        infer({**TEXT, "data": [["star"]]}), infer({**TEXT, "datatype": "FP32", "data": [1]}), {"inputs": []},
        infer({**TEXT, "shape": [2, 1], "data": ["a", "b"]}, parameters={"binary_data_output": True}))],
    ("POST", INFER, gzip.compress(json.dumps(infer()).encode()), {"Content-Encoding": "gzip"}),
    ("POST", INFER, infer(), {"Accept-Encoding": "deflate;q=0.5, gzip"}), ("POST", INFER, b"x", {"Content-Encoding": "br"}),
    ("POST", INFER, *with_tail(infer(BINARY), STAR)), ("POST", INFER, *with_tail(infer(BINARY), STAR[:-1])),
    ("POST", INFER, b"star", RAW), ("POST", "/v2/models/embed_image/infer", SEVEN, RAW),
    ("POST", "/v2/models/siglip_vision_process/infer", SEVEN, RAW), ("POST", "/v2/models/siglip_vision/infer", b"x", RAW),
    # An unknown model is told before what is wrong with the request.
    *[("POST", path + "/infer", b"{") for path in ("/v2/models/nope", MODEL + "/versions/2")],
    *[("POST", MODEL + door, body) for door in ("/generate", "/generate_stream") for body in (
        {"INPUT_TEXT": "star"}, {"INPUT_TEXT": ["a", "b"], "id": "i"}, {"INPUT_TEXT": "a", "timeout": 1, "priority": "x"},
        {"INPUT_TEXT": "a", "triton_x": True, "parameters": {"sequence_id": 1.5}}, {"parameters": {"INPUT_TEXT": ["a", "b"]}},
        {"INPUT_TEXT": "a", "sequence_id": "x" * 129})],
    *[("POST", "/v2/models/siglip_text/generate", {"INPUT_IDS": [1] * count}) for count in (32, 64)],
    ("POST", "/v2/models/nope/generate", {}), ("POST", MODEL + "/generate", b"x", {"Content-Encoding": "gzip"}),
]

# Refused with the same status, in our own words.
REFUSED_HTTP = [
    *[("POST", INFER, body) for body in (
        infer({**TEXT, "data": ["a", "b"]}), infer({**TEXT, "datatype": "FP16"}), infer({**TEXT, "datatype": "x"}),
        infer({"name": "INPUT_TEXT", "datatype": "BYTES", "shape": [1, 1]}), infer({**TEXT, "name": "X"}),
        infer({**TEXT, "parameters": {"binary_data_size": 4}}), infer(parameters={"triton_x": True}),
        infer(parameters={"a": None}), {"inputs": [TEXT, TEXT]},
        output(shared_memory_region="nope", shared_memory_byte_size=512, binary_data=True),
        output(shared_memory_region="nope", shared_memory_byte_size=512, classification=1),
        output(shared_memory_region="nope", shared_memory_byte_size=512))],
    ("POST", INFER, *with_tail(infer(BINARY), STAR + b"x")),
    ("POST", "/v2/models/siglip_text/infer", b"x" * 255, RAW),
    ("POST", "/v2/models/siglip_text/generate", {"INPUT_IDS": [1] * 31}), ("POST", MODEL + "/generate", {"x": 1}),
    ("POST", MODEL + "/generate", {"INPUT_TEXT": "a", "x": [1]}),
    *[("POST", MODEL + "/generate", body) for body in ({"INPUT_TEXT": "a", "parameters": {"INPUT_TEXT": "b"}},
                                                       {"INPUT_TEXT": "a", "parameters": {"x": [1]}})],
]

# The client's errors here, Triton's own there.
REFUSED_WITH_400 = [("POST", MODEL + "/generate", {"INPUT_TEXT": "a", "parameters": value})
                    for value in (5, "x", None, [], True)]


@pytest.mark.parametrize("request_", SAME_HTTP, ids=str)
def test_http_answers_are_tritons(both, request_):
    expected, got = (ask(address, *request_) for address, _ in both)
    assert got == expected


@pytest.mark.parametrize("request_", REFUSED_HTTP, ids=str)
def test_http_refusals_have_tritons_status(both, request_):
    expected, got = (ask(address, *request_) for address, _ in both)
    assert got[0] == expected[0] >= 400, (expected, got)


@pytest.mark.parametrize("request_", REFUSED_WITH_400, ids=str)
def test_http_refusals_of_types_are_the_clients(both, request_):
    assert [ask(address, *request_)[0] for address, _ in both] == [500, 400]


def call(stub, name, request):
    try:
        answer = getattr(stub, name)(request, timeout=60)
    except grpc.RpcError as error:
        return error.code().name, text_of(error.details())
    fields = shape(json_format.MessageToDict(answer, preserving_proto_field_name=True))
    if name == "ModelInfer":
        fields["raw_output_contents"] = [len(raw) for raw in answer.raw_output_contents]
    return "OK", fields


def changed(change, **options):
    request = text_request([b"star"], **options)
    change(request)
    return request


def region(tensor, name=REGION, byte_size=None, offset=None):
    tensor.parameters["shared_memory_region"].string_param = name
    if byte_size is not None:
        tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset is not None:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def shared_input(**options):
    def change(request):
        del request.raw_input_contents[:]
        region(request.inputs[0], **options)
    return changed(change)


def shared_output(**options):
    return changed(lambda r: region(r.outputs.add(name="EMBEDDING"), **options))


def test_grpc_answers_are_tritons(both):
    requests = [(name, getattr(service_pb2, name + "Request")(name=model, version=version))
                for name in ("ModelReady", "ModelMetadata", "ModelStatistics")
                for model, version in (("nope", ""), ("nope", "1"), ("embed_text", "2"), ("", "2"))
                if (name, model) != ("ModelStatistics", "")]
    requests += [("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest(name="x")),
                 ("CudaSharedMemoryStatus", service_pb2.CudaSharedMemoryStatusRequest(name="x")),
                 ("ModelInfer", changed(lambda r: r.outputs.add(name="EMBEDDING"), request_id="é")),
                 ("ModelInfer", changed(lambda r: r.inputs[0].shape.append(1))),
                 ("ModelInfer", changed(lambda r: setattr(r.inputs[0], "datatype", "x"), model="nope")),
                 ("ModelInfer", changed(lambda r: r.outputs.add(name="X"))),
                 ("ModelInfer", changed(lambda r: setattr(r.parameters["sequence_id"], "string_param", "x" * 129)))]
    for tensor in ("inputs", "outputs"):
        for key in ("shared_memory_offset", "shared_memory_byte_size"):
            def stray(request, tensor=tensor, key=key):
                request.outputs.add(name="EMBEDDING")
                getattr(request, tensor)[0].parameters[key].int64_param = 1
            requests.append(("ModelInfer", changed(stray)))
    for name, request in requests:
        expected, got = (call(stub, name, request) for _, stub in both)
        assert got == expected, (name, request)
    for version in ("a", "-1"):
        request = service_pb2.ModelStatisticsRequest(version=version)
        assert [call(stub, "ModelStatistics", request)[0] for _, stub in both] == ["INVALID_ARGUMENT"] * 2


def test_shared_memory_is_tritons(both):
    memory = os.open(f"/dev/shm/{REGION}", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        os.ftruncate(memory, 4096)
        os.pwrite(memory, STAR, 0)
        register = service_pb2.SystemSharedMemoryRegisterRequest(name=REGION, key="/" + REGION, byte_size=4096)
        for request in (register, register):
            expected, got = (call(stub, "SystemSharedMemoryRegister", request) for _, stub in both)
            assert got == expected
        requests = [shared_input(byte_size=8), shared_input(byte_size=8, offset=0), shared_input(), shared_output(),
                    shared_output(byte_size=512, offset=1024), shared_output(byte_size=600, offset=1024)]
        refused = [shared_input(byte_size=0), shared_input(byte_size=7), shared_input(byte_size=8, offset=4096),
                   shared_input(byte_size=-1), shared_output(byte_size=0), shared_output(byte_size=511),
                   shared_output(byte_size=512, offset=4000), shared_output(name="nope", byte_size=512)]
        for request in requests:
            expected, got = (call(stub, "ModelInfer", request) for _, stub in both)
            assert got == expected, request
        for request in refused:
            expected, got = (call(stub, "ModelInfer", request)[0] for _, stub in both)
            assert got == expected != "OK", request
        for address, _ in both:
            assert ask(address, "POST", "/v2/systemsharedmemory/unregister") == (200, None, None, "")
    finally:
        os.close(memory)
        os.unlink(f"/dev/shm/{REGION}")


def control(address, action, model, **parameters):
    """Loads or unloads; returns the states once none is being changed any more."""
    body = {"parameters": parameters} if parameters else None
    assert ask(address, "POST", f"/v2/repository/models/{model}/{action}", body)[0] == 200
    for _ in range(600):
        states = {row["name"]: row["state"] for row in ask(address, "POST", "/v2/repository/index")[3]}
        if "UNLOADING" not in states.values() and (action == "load" or states[model] == "UNAVAILABLE"):
            return states
        time.sleep(0.1)
    raise TimeoutError(states)


def test_ensembles_go_and_come_with_their_steps_as_tritons(both):
    changes = [("unload", "siglip_vision_process", {}), ("load", "siglip_vision_process", {}),
               ("unload", "siglip_vision_process", {}), ("unload", "siglip_vision_model", {}),
               ("load", "siglip_vision_process", {}), ("load", "siglip_vision_model", {}),
               # Its steps were loaded by their own names: the first time none goes, the second time one.
               ("unload", "siglip_vision", {"unload_dependents": True}), ("load", "siglip_vision", {}),
               ("unload", "siglip_vision_process", {}), ("load", "siglip_vision", {}),
               ("unload", "siglip_vision", {"unload_dependents": True}), ("load", "siglip_vision_process", {}),
               ("load", "siglip_vision", {})]
    try:
        for action, model, parameters in changes:
            expected, got = (control(address, action, model, **parameters) for address, _ in both)
            assert got == expected, (action, model, parameters)
        for address, _ in both:
            assert ask(address, "POST", "/v2/models/siglip_vision/infer", SEVEN, RAW)[0] == 200
    finally:
        for address, _ in both:
            control(address, "load", "siglip_vision_process")
            control(address, "load", "siglip_vision")


def test_failed_loads_have_tritons_status(both):
    """A configuration that is wrong is the repository's error, what comes of a good one the client's."""
    path = "/v2/repository/models/siglip_text/load"
    config = {"backend": "siglip", "max_batch_size": 4, "parameters": {"step": {"string_value": "text"}},
              "input": [{"name": "INPUT_IDS", "data_type": "TYPE_INT64", "dims": [32]}],
              "output": [{"name": "EMBEDDING", "data_type": "TYPE_FP32", "dims": [128]}]}
    changes = [({"backend": "nope"}, 400), ({"parameters": {"step": {"string_value": "nope"}}}, 400),
               ({"input": [{"name": "X", "data_type": "TYPE_INT64", "dims": [32]}]}, 400),
               ({"version_policy": {"specific": {"versions": [7]}}}, 400), ({"version_policy": {"specific": {}}}, 400),
               ({"version_policy": {"latest": {}}}, 400), ({"instance_group": [{"kind": "KIND_CPU", "gpus": [0]}]}, 400),
               ({"instance_group": [{"kind": "KIND_MODEL", "gpus": [0]}]}, 400),
               ({"instance_group": [{"gpus": [0]}]}, 400),
               ({"instance_group": [{"profile": ["1"]}]}, 400),
               ({"backend": ""}, 500), ({"max_batch_size": -1}, 500),
               ({"dynamic_batching": {"preferred_batch_size": [5]}}, 500)]
    # A load that fails beside an older model keeps this core from ending.
    for address, _ in both:
        control(address, "unload", "siglip_text")
    try:
        for change, status in changes:
            body = {"parameters": {"config": json.dumps({**config, **change})}}
            answers = [ask(address, "POST", path, body) for address, _ in both]
            assert [answer[0] for answer in answers] == [status] * 2, (change, answers)
            request = service_pb2.RepositoryModelLoadRequest(model_name="siglip_text")
            request.parameters["config"].string_param = body["parameters"]["config"]
            expected, got = (call(stub, "RepositoryModelLoad", request)[0] for _, stub in both)
            assert got == expected, change
    finally:
        for address, _ in both:
            control(address, "load", "siglip_text")


def test_unloaded_models_are_told_as_tritons(both):
    model = "/v2/models/siglip_text"
    for address, _ in both:
        control(address, "unload", "siglip_text")
    try:
        for path in ("", "/config", "/stats", "/ready", "/versions/1", "/versions/1/stats", "/versions/2"):
            expected, got = (ask(address, "GET", model + path) for address, _ in both)
            assert got == expected, path
        for request in (("POST", model + "/infer", b"x", RAW), ("POST", model + "/versions/1/infer", infer()),
                        ("POST", "/v2/repository/index", {"ready": True}), ("GET", "/v2/health/ready"),
                        ("POST", model + "/generate", {}), ("POST", "/v2/repository/models/nope/load")):
            expected, got = (ask(address, *request) for address, _ in both)
            assert got == expected, request
        for version in ("", "1", "2"):
            request = service_pb2.ModelInferRequest(model_name="siglip_text", model_version=version)
            expected, got = (call(stub, "ModelInfer", request) for _, stub in both)
            assert got == expected, version
    finally:
        for address, _ in both:
            assert ask(address, "POST", "/v2/repository/models/siglip_text/load")[0] == 200


def failures(stub):
    rows = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), timeout=60).model_stats
    return {row.name: (row.inference_stats.success.count, row.inference_stats.fail.count, row.inference_count)
            for row in rows if row.name != "siglip_vision"}  # whose failures Triton counts twice


def test_statistics_count_as_tritons(both):
    requests = [("POST", INFER, infer()), ("POST", INFER, infer({**TEXT, "shape": [3, 1], "data": list("abc")})),
                ("POST", INFER, infer({**TEXT, "shape": [3]})), ("POST", "/v2/models/embed_image/infer", SEVEN, RAW),
                ("POST", "/v2/models/embed_image/infer", b"no image", RAW), ("POST", INFER, b"{"),
                ("POST", INFER, infer(parameters={"embed_model": "nope"})), ("POST", MODEL + "/generate", {"INPUT_TEXT": "a"})]
    for request in requests:
        moved = []
        for address, stub in both:
            before = failures(stub)
            ask(address, *request)
            for _ in range(20):  # Triton counts after it has answered
                after = failures(stub)
                changes = {name: tuple(np.subtract(after[name], before[name])) for name in after
                           if after[name] != before[name]}
                if changes and failures(stub) == after:
                    break
                time.sleep(0.01)
            moved.append(changes)
        assert moved[1] == moved[0], request


def test_failed_loads_of_ensembles_have_tritons_status(both):
    """The last of those that share the two servers: this core keeps the steps of an ensemble that it refused."""
    ids, embedding = {"INPUT_IDS": "INPUT_IDS"}, {"EMBEDDING": "EMBEDDING"}
    tensors = {"input": [{"name": "INPUT_IDS", "data_type": "TYPE_INT64", "dims": [32]}],
               "output": [{"name": "EMBEDDING", "data_type": "TYPE_FP32", "dims": [128]}]}
    step = {"model_name": "siglip_text", "model_version": -1, "input_map": ids, "output_map": embedding}
    config = {"platform": "ensemble", "max_batch_size": 4, **tensors, "ensemble_scheduling": {"step": [step]}}

    def steps(*changes):
        return {"ensemble_scheduling": {"step": [{**step, **change} for change in changes]}}

    changes = [({}, 200), ({"optimization": {}}, 500), ({"model_warmup": [{"name": "w"}]}, 500),
               ({"instance_group": [{}]}, 500), ({"input": tensors["input"] + [{**tensors["input"][0], "name": "X"}]}, 500),
               (steps({}, {"output_map": {"EMBEDDING": "X"}}), 500), (steps({}, {}), 500),
               (steps({"model_name": ""}), 500), (steps({"input_map": {}}), 500), (steps({"output_map": {}}), 500),
               (steps({"input_map": {"INPUT_IDS": "X"}}), 500), (steps({"output_map": {"EMBEDDING": "X"}}), 500),
               (steps({"input_map": {"X": "INPUT_IDS"}}), 400)]
    for address, _ in both:
        control(address, "unload", "siglip_vision")
    for change, status in changes:
        body = {"parameters": {"config": json.dumps({**config, **change})}}
        answers = [ask(address, "POST", "/v2/repository/models/siglip_vision/load", body) for address, _ in both]
        assert [answer[0] for answer in answers] == [status] * 2, (change, answers)
        if status == 200:
            for address, _ in both:
                control(address, "unload", "siglip_vision")


def spans(path):
    """What a trace file tells of each request: model and version, id, the model above, hops."""
    named, hops = {}, {}
    for entry in json.loads(path.read_text()):
        if "model_name" in entry:
            named[entry["id"]] = entry
        hops.setdefault(entry["id"], set()).update(hop["name"] for hop in entry.get("timestamps", ()))
    return sorted((span["model_name"], span["model_version"], span.get("request_id"),
                   named[span["parent_id"]]["model_name"] if "parent_id" in span else None, sorted(hops[id_]))
                  for id_, span in named.items())


def test_traces_are_tritons(backends, tmp_path):
    def options(name):
        return [f"--trace-config=triton,file={tmp_path}/{name}", "--trace-config=level=Timestamps",
                "--trace-config=rate=1", "--trace-config=triton,log-frequency=1"]

    requests = [lambda http, _: ask(http, "POST", "/v2/models/embed_image/infer", SEVEN, RAW),
                lambda http, _: ask(http, "POST", INFER, infer(id="x")),
                lambda http, _: ask(http, "POST", MODEL + "/generate", {"INPUT_TEXT": "a"}),
                lambda http, _: ask(http, "POST", INFER, infer(parameters={"embed_model": "nope"})),
                lambda http, _: ask(http, "POST", "/v2/models/siglip_vision/infer", SEVEN, RAW),
                lambda _, stub: call(stub, "ModelInfer", text_request([b"star"], request_id="y")),
                lambda _, stub: list(stub.ModelStreamInfer(iter([text_request([b"star"])]), timeout=60))]
    urls = start_server(["--model-repository", str(ROOT / "model_repository"), "--precision", "fp32", *options("ours")])
    try:
        with running_core(backends, tmp_path / "log", *options("tritons")) as (client, grpc_client, _), \
                grpc.insecure_channel(urls.grpc) as channel:
            doors = [("tritons", f"127.0.0.1:{client._client_stub.port}", grpc_client._client_stub),
                     ("ours", urls.http, service_pb2_grpc.GRPCInferenceServiceStub(channel))]
            for count, request in enumerate(requests):
                traces = []
                for name, http_address, stub in doors:
                    request(http_address, stub)
                    path = tmp_path / f"{name}.{count}"
                    for _ in range(600):
                        if path.exists() and path.read_text().endswith("]"):
                            break
                        time.sleep(0.01)
                    traces.append(spans(path))
                assert traces[1] == traces[0], count
    finally:
        urls.process.terminate()
        urls.process.wait(timeout=40)


def metrics_of(address):
    """Triton's, by name and labels as text."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name.startswith("nv_")}


def test_metrics_are_tritons(backends, tmp_path):
    """Names, labels and counts; settings that Triton does not know have no effect."""
    caches = pathlib.Path(os.environ["SIGLIP_TRITONSERVER"]).parents[1] / "caches"
    options = ["--metrics-config=summary_latencies=true", "--metrics-config=x=true",
               "--metrics-config=counter_latencies=FALSE", "--metrics-config=model:embed_text=true",
               "--metrics-config=summary_quantiles=0.5:0.05,0.9,1:0.1", "--cache-config=local,size=10000000",
               f"--cache-directory={caches}"]
    urls = start_server(["--model-repository", str(ROOT / "model_repository"), *options])
    try:
        with running_core(backends, tmp_path / "log", *options) as (client, _, metrics):
            for address in (f"127.0.0.1:{client._client_stub.port}", urls.http):
                for text in (b"star", b"star", b"moon", b"\xff"):
                    ask(address, "POST", INFER, text, RAW)
            counts = re.compile(r"nv_inference_(request_(success|failure)|count|exec_count)\b|nv_cache_num_(?!entries)")
            for _ in range(100):  # Triton counts after it has answered, and its cache each second
                expected, got = metrics_of(metrics), metrics_of(urls.metrics)
                differ = {name for name in expected if counts.match(name) and expected[name] != got.get(name)}
                if not differ:
                    break
                time.sleep(0.1)
            assert differ == set()
            assert set(expected) - set(got) == set()
            assert got['nv_cache_num_misses_per_model{model="embed_text",version="1"}'] == 3  # the failure's too
    finally:
        urls.process.terminate()
        urls.process.wait(timeout=40)


@pytest.mark.parametrize("setting", ["x", "=true", "x=", "model:embed_text,summary_latencies=true"])
def test_malformed_metrics_settings_end_the_start(backends, setting):
    del backends  # it skips where there is no Triton
    option = "--metrics-config=" + setting
    repository = f"--model-repository={ROOT}/model_repository"
    triton = subprocess.run([os.environ["SIGLIP_TRITONSERVER"], repository, option], timeout=60, check=False,
                            capture_output=True)
    assert triton.returncode != 0 and b"--metrics-config" in triton.stdout + triton.stderr
    with pytest.raises(RuntimeError, match="--metrics-config"):
        start_server([repository, option])
