"""Every case of tests/conformance, the same through each way into the server and however it is configured. README.md
there tells the form."""

import base64
import json
import re
import shutil
import struct
import tomllib
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest

from tritonclient.grpc import service_pb2, service_pb2_grpc

from conftest import ROOT
from test_drop_in import running

FOLDER = ROOT / "tests" / "conformance"
CASES = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.case"))}
HTTP_STATUS = {400: "invalid_argument", 404: "not_found", 503: "unavailable", 501: "unimplemented", 500: "internal"}
NUMBERS = {"INT64": ("<i8", "int64_contents"), "FP32": ("<f4", "fp32_contents")}


def elements(tensor):
    """Bytes objects of a BYTES tensor, numbers of any other."""
    if "numbers" in tensor:
        values = tensor["numbers"]
    elif "files" in tensor:
        values = [(ROOT / name).read_bytes() for name in tensor["files"]]
    elif "base64" in tensor:
        values = [base64.b64decode(text) for text in tensor["base64"]]
    else:
        values = [text.encode() for text in tensor["text"]]
    return values * tensor.get("repeat", 1)


def wire_bytes(tensor):
    values = elements(tensor)
    if tensor["datatype"] == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return np.array(values, dtype=NUMBERS[tensor["datatype"]][0]).tobytes()


def is_text(case):
    def decodes(value):
        try:
            return isinstance(value, int) or value.decode("utf-8") is not None
        except UnicodeDecodeError:
            return False
    return all(decodes(value) for tensor in case["inputs"] for value in elements(tensor))


class Refused(Exception):
    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


def over_http(server, case, binary):
    """[(shape, float32 values)] of the outputs."""
    tail, inputs = b"", []
    for tensor in case["inputs"]:
        entry = {key: tensor[key] for key in ("name", "datatype", "shape")}
        if binary:
            block = wire_bytes(tensor)
            entry["parameters"] = {"binary_data_size": len(block)}
            tail += block
        else:
            entry["data"] = [v.decode() if isinstance(v, bytes) else v for v in elements(tensor)]
        inputs.append(entry)
    request = {"inputs": inputs, "id": case.get("id", ""), "parameters": dict(case.get("parameters", {}))}
    if "outputs" in case:
        request["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in case["outputs"]]
    elif binary:
        request["parameters"]["binary_data_output"] = True
    head = json.dumps(request).encode()
    version = f"/versions/{case['version']}" if "version" in case else ""
    headers = {"Inference-Header-Content-Length": str(len(head))} if binary else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(
                f"http://{server.http}/v2/models/{case['model']}{version}/infer", head + tail, headers)) as response:
            body, size = response.read(), response.headers["Inference-Header-Content-Length"]
    except urllib.error.HTTPError as error:
        raise Refused(HTTP_STATUS[error.code], json.loads(error.read())["error"]) from None
    answer = json.loads(body[:int(size)] if size else body)
    assert answer["model_name"] == case["model"] and answer.get("id", "") == case.get("id", "")
    if not binary:
        return [(o["shape"], np.array(o["data"], np.float32)) for o in answer["outputs"]]
    return [(o["shape"], np.frombuffer(body[int(size):], "<f4")) for o in answer["outputs"]]


def over_grpc(server, case, typed):
    request = service_pb2.ModelInferRequest(model_name=case["model"], model_version=case.get("version", ""),
                                            id=case.get("id", ""))
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in case.get("parameters", {}).items():
        setattr(request.parameters[name], fields[type(value)], value)
    for tensor in case["inputs"]:
        entry = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        if typed:
            field = "bytes_contents" if tensor["datatype"] == "BYTES" else NUMBERS[tensor["datatype"]][1]
            getattr(entry.contents, field).extend(elements(tensor))
        else:
            request.raw_input_contents.append(wire_bytes(tensor))
    for name in case.get("outputs", []):
        request.outputs.add(name=name)
    with grpc.insecure_channel(server.grpc) as channel:
        try:
            answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        except grpc.RpcError as error:
            raise Refused(error.code().name.lower(), error.details()) from None
    assert answer.model_name == case["model"] and answer.id == case.get("id", "")
    return [(list(o.shape), np.frombuffer(raw, "<f4"))
            for o, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)]


WAYS = {"http_json": lambda server, case: over_http(server, case, binary=False),
        "http_binary": lambda server, case: over_http(server, case, binary=True),
        "grpc_raw": lambda server, case: over_grpc(server, case, typed=False),
        "grpc_typed": lambda server, case: over_grpc(server, case, typed=True)}


def ways(case):
    """JSON cannot carry what is not UTF-8, so not image files."""
    return [way for way in case.get("ways", WAYS) if way != "http_json" or is_text(case)]


def check(send, server, case):
    """Raises AssertionError if the answer is another one than the case expects."""
    expect = case.get("expect", {})
    try:
        outputs = send(server, case)
    except Refused as refused:
        assert refused.status == expect.get("status", "ok"), refused
        assert re.search(expect.get("error", ""), refused.text, re.DOTALL), refused
        return
    assert expect.get("status", "ok") == "ok", "expected a refusal"
    shape, values = outputs[0]
    assert values.size == np.prod(shape) and np.isfinite(values).all()
    assert shape == expect.get("shape", shape)
    if "same_as" in expect:
        _, reference = WAYS["grpc_raw"](server, CASES[expect["same_as"]])[0]
        if "row" in expect:
            values = values.reshape(shape[0], -1)[expect["row"]]
        np.testing.assert_array_equal(values, reference)


def write_repository(folder, change):
    """The shipped repository with `change` (text of a config.pbtxt -> text) made to each model."""
    shutil.copytree(ROOT / "model_repository", folder)
    changed = 0
    for path in folder.glob("*/config.pbtxt"):
        (path.parent / "1").mkdir(exist_ok=True)
        text = path.read_text()
        path.write_text(change(text))
        changed += change(text) != text
    assert changed, "a change that changes nothing"


def without_batching(text):
    return re.sub(r"^dynamic_batching \{.*?^\}", "", text, flags=re.DOTALL | re.MULTILINE)


def with_more_instances(text):
    """Three of each model that has any, and a queue that waits for others."""
    text = text.replace("max_queue_delay_microseconds: 0", "max_queue_delay_microseconds: 2000")
    if "ensemble_scheduling" in text:
        return text.replace("ensemble_scheduling {", "ensemble_scheduling { max_inflight_requests: 1")
    text = re.sub(r"^instance_group .*$", "", text, flags=re.MULTILINE)
    return text + "instance_group [ { kind: KIND_CPU count: 3 } ]\n"


# What the answers must not depend on: arguments of `siglip serve`, or a change of the shipped repository.
CONFIGURATIONS = {"as_it_comes": [], "cached": ["--cache-config", "local,size=4194304"],
                  "decoded_in_the_server": ["--decode-workers", "off"],
                  "one_thread_of_each": ["--http-thread-count", "1", "--decode-workers", "1", "--threads", "1"],
                  "oldest_kernels": ["--isa", "scalar"], "traced": ["--trace-config", "level=TIMESTAMPS"],
                  "without_batching": without_batching, "more_instances": with_more_instances}


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def configured(request, tmp_path_factory):
    configuration = CONFIGURATIONS[request.param]
    if configuration == []:
        yield request.getfixturevalue("server")
        return
    folder = tmp_path_factory.mktemp(request.param)
    if callable(configuration):
        write_repository(folder / "models", configuration)
        arguments = ["--model-repository", str(folder / "models")]
    else:
        arguments = list(configuration)
    if "--trace-config" in arguments:
        arguments += ["--trace-config", f"triton,file={folder}/trace.json", "--trace-config", "rate=1"]
    yield from running(arguments)


@pytest.mark.parametrize("name, way", [(name, way) for name, case in CASES.items() for way in ways(case)])
def test_case(configured, name, way):
    check(WAYS[way], configured, CASES[name])
    if "status" not in CASES[name].get("expect", {}):
        check(WAYS[way], configured, CASES[name])  # now the answer may be one that was kept


def test_the_check_sees_every_kind_of_difference(server):
    """A case with one expectation changed fails."""
    for name, change in {"image": {"shape": [1, 127]}, "text": {"same_as": "image"},
                         "text_is_canonicalised": {"status": "not_found"}, "unknown_model": {"status": "ok"},
                         "wrong_type": {"error": "another text"}, "text_of_60": {"row": 59, "same_as": "image"}}.items():
        case = dict(CASES[name])
        case["expect"] = {**case["expect"], **change}
        for way in ways(case):
            with pytest.raises(AssertionError):
                check(WAYS[way], server, case)
