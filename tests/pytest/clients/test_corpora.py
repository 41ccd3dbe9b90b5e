"""The hostile files of SIGLIP_CORPORA through every door: Pillow's verdict on each picture, a verdict on each text, and a
server that goes on. With the build of sanitizers whatever they find ends the server, and the test."""

import base64
import http.client
import json
import os
import pathlib

import numpy as np
import pytest

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from conftest import skip
from test_drop_in import running
from test_tritonclient import image_input

FOLDER = pathlib.Path(os.environ.get("SIGLIP_CORPORA", "/nonexistent"))
RAW = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}


@pytest.fixture(scope="module", name="urls")
def urls_fixture():
    if not (FOLDER / "verdicts.json").exists():
        skip("SIGLIP_CORPORA names no folder with verdicts.json")
    yield from running([])


def post(connection, path, body, headers):
    """Status and body, whether the answer ends the connection or not."""
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def ask_raw(connection, picture):
    connection.request("POST", "/v2/models/embed_image/infer", picture, RAW)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        return answer.status
    return body[int(answer.headers["Inference-Header-Content-Length"]):]


def ask_json(connection, picture):
    request = {"inputs": [{"name": "INPUT_IMAGE", "shape": [1, 1], "datatype": "BYTES", "data": [base64.b64encode(picture).decode()]}],
               "parameters": {"base64_encoded": True}}
    status, body = post(connection, "/v2/models/embed_image/infer", json.dumps(request), {})
    return np.float32(json.loads(body)["outputs"][0]["data"]).tobytes() if status == 200 else status


def ask_grpc(client, picture):
    try:
        return client.infer("embed_image", [image_input(grpcclient, [picture])]).as_numpy("EMBEDDING").tobytes()
    except InferenceServerException as error:
        return {"StatusCode.INVALID_ARGUMENT": 400}.get(error.status(), error.status())


def test_every_picture_has_pillows_verdict_at_every_door(urls):
    verdicts = json.loads((FOLDER / "verdicts.json").read_text())["files"]
    connection = http.client.HTTPConnection(urls.http, timeout=120)
    client = grpcclient.InferenceServerClient(urls.grpc)
    wrong = []
    for name, verdict in verdicts.items():
        picture = (FOLDER / "images" / name).read_bytes()
        answers = [ask_raw(connection, picture), ask_json(connection, picture), ask_grpc(client, picture)]
        if len(set(answers)) != 1 or isinstance(answers[0], bytes) != verdict["ok"] or (not verdict["ok"] and answers[0] != 400):
            wrong.append(f"{name}: {verdict}, got {[a if isinstance(a, int) else a[:8] for a in answers]}")
    assert not wrong, f"{len(wrong)} of {len(verdicts)}:\n" + "\n".join(wrong[:20])
    assert client.is_server_ready()


def test_every_text_is_answered_by_every_door_that_reads_json(urls):
    """No case is a request that these doors take, so each is the client's mistake; JSON is none of the others' concern."""
    connection = http.client.HTTPConnection(urls.http, timeout=120)
    cases = sorted((FOLDER / "json").iterdir())
    wrong = []
    for path in ["/v2/models/embed_text/infer", "/v2/models/embed_text/generate", "/v1/embeddings", "/v2/logging", "/v2/trace/setting",
                 "/v2/repository/models/embed_text/load", "/v2/repository/index"]:
        for case in cases:
            status, body = post(connection, path, case.read_bytes(), {})
            if status >= 500 and b"explicit" not in body:
                wrong.append(f"{path} {case.name}: {status} {body[:200]}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:20])
    assert len(cases) > 0
