"""OpenAI's embeddings door of a running server, against the same models over Triton's protocol."""

import base64
import gzip
import json
import urllib.request

import numpy as np
import openai
import pytest

import tritonclient.http as httpclient

from conftest import ROOT
from test_tritonclient import PNG, image_input, post, text_input

URI = [f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in PNG]
TEXTS = ["a photo of seven", "ein Bild einer Sieben ü", ""]


def ask(server, **fields):
    status, _, body = post(server, "/v1/embeddings", json.dumps(fields).encode(), {"Content-Type": "application/json"})
    return status, json.loads(body)


def vectors(server, **fields):
    status, answer = ask(server, **fields)
    assert status == 200, answer
    assert [row["index"] for row in answer["data"]] == list(range(len(answer["data"])))
    rows = [row["embedding"] for row in answer["data"]]
    if fields.get("encoding_format") == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    return np.array(rows, np.float32)


@pytest.fixture(scope="module")
def reference(server):
    client = httpclient.InferenceServerClient(server.http)
    return (client.infer("embed_text", [text_input(httpclient, TEXTS)]).as_numpy("EMBEDDING"),
            client.infer("embed_image", [image_input(httpclient, PNG)]).as_numpy("EMBEDDING"))


def test_both_encodings_are_the_models_own_numbers(server, reference):
    texts, images = reference
    for encoding in ("float", "base64"):
        own = {"encoding_format": encoding, "normalized": False}
        np.testing.assert_array_equal(vectors(server, model="embed_text", input=TEXTS, **own), texts)
        np.testing.assert_array_equal(vectors(server, model="embed_image", input=URI, **own), images)
        mixed = [TEXTS[0], {"image": URI[1]}, {"type": "text", "text": TEXTS[1]},
                 {"type": "image_url", "image_url": {"url": URI[0]}}, URI[2]]
        np.testing.assert_array_equal(vectors(server, model="siglip", input=mixed, **own),
                                      np.stack([texts[0], images[1], texts[1], images[0], images[2]]))


def test_vectors_have_length_one_unless_asked(server, reference):
    rows = vectors(server, model="embed_text", input=TEXTS)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    expected = reference[0] / np.linalg.norm(reference[0].astype(np.float64), axis=1, keepdims=True)
    # One rounding of each number to float32.
    np.testing.assert_allclose(rows, expected, rtol=2**-23, atol=0)
    assert ask(server, model="embed_text", input="a")[1]["normalized"] is True
    assert ask(server, model="embed_text", input="a", normalized=False)[1]["normalized"] is False


def test_long_lists_are_split_for_the_model(server, reference):
    rows = vectors(server, model="embed_text", input=TEXTS * 50, normalized=False)
    np.testing.assert_array_equal(rows, np.tile(reference[0], [50, 1]))


def test_one_string_and_compressed_bodies(server, reference):
    np.testing.assert_array_equal(vectors(server, model="embed_text", input=TEXTS[0], normalized=False),
                                  reference[0][:1])
    body = gzip.compress(json.dumps({"model": "embed_text", "input": TEXTS[0], "normalized": False}).encode())
    status, headers, answer = post(server, "/v1/embeddings", body, {"Content-Encoding": "gzip",
                                                                    "Accept-Encoding": "gzip"})
    assert status == 200 and headers["Content-Encoding"] == "gzip"
    np.testing.assert_array_equal(np.array(json.loads(gzip.decompress(answer))["data"][0]["embedding"], np.float32),
                                  reference[0][0])


def test_usage_counts_the_tokenizers_ids(server):
    """Against transformers' ids: padding is EOS in this checkpoint, and one of it belongs to the text."""
    golden = json.loads((ROOT / "tests/golden/demo.json").read_text())
    texts, eos = golden["texts"], 1
    counts = [max((i for i, token in enumerate(row) if token != eos), default=-1) + 2 for row in golden["ids"]]
    assert max(counts) == len(golden["ids"][0]) and min(counts) == 1, "one is cut, one is empty"
    for model, inputs, tokens in [("embed_text", texts, sum(counts)), ("embed_text", texts[1], counts[1]),
                                  ("siglip", [texts[2], {"image": URI[0]}], counts[2]), ("embed_image", URI, 0),
                                  ("embed_text", texts * 10, 10 * sum(counts))]:
        answer = ask(server, model=model, input=inputs)[1]
        assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize("status, text, param, code, fields", [
    (404, "expected one of siglip, embed_text, embed_image", "model", "model_not_found",
     {"model": "text-embedding-3-small", "input": "a"}),
    (400, "token ids", "input", None, {"model": "embed_text", "input": [1, 2]}),
    (400, "not fetched from URLs", "input", None,
     {"model": "siglip", "input": {"image_url": "http://127.0.0.1/a.png"}}),
    (400, "dimensions: expected 128 or none", "dimensions", None, {"model": "siglip", "input": "a", "dimensions": 64}),
    (400, "expected an image file", "input", None, {"model": "embed_image", "input": "QUJD"}),
    (400, "input[1]: image: expected", "input", None, {"model": "embed_image", "input": [URI[0], "QUJD"]}),
])
def test_refusals(server, status, text, param, code, fields):
    got, answer = ask(server, **fields)
    assert got == status and text in answer["error"]["message"], answer
    del answer["error"]["message"]
    assert answer["error"] == {"type": "invalid_request_error", "param": param, "code": code}


def test_the_openai_client(server, reference):
    """openai of PyPI, unchanged; it asks for base64 unless told otherwise."""
    client = openai.OpenAI(base_url=f"http://{server.http}/v1", api_key="none is needed", max_retries=0)
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        answer = client.embeddings.create(model="embed_text", input=TEXTS, extra_body={"normalized": False}, **options)
        rows = [row.embedding for row in answer.data]
        if options.get("encoding_format") == "base64":
            rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
        np.testing.assert_array_equal(np.array(rows, np.float32), reference[0])
        assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0
    assert [model.id for model in client.models.list()] == ["siglip", "embed_text", "embed_image"]
    assert client.models.retrieve("embed_image").id == "embed_image"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.models.retrieve("ada")
    assert unknown.value.code == "model_not_found"
    answer = client.embeddings.create(model="embed_text", input="a", dimensions=None, encoding_format=None)
    assert len(answer.data) == 1
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="ada", input="a")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.embeddings.create(model="embed_text", input="a", dimensions=1)
    assert wrong.value.param == "dimensions"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="siglip", messages=[{"role": "user", "content": "a"}])


def test_models_and_document(server):
    with urllib.request.urlopen(f"http://{server.http}/v1/models") as response:
        ids = [model["id"] for model in json.load(response)["data"]]
    assert ids == ["siglip", "embed_text", "embed_image"]
    with urllib.request.urlopen(f"http://{server.http}/openapi.json") as response:
        assert json.load(response)["components"]["schemas"]["EmbeddingsRequest"]["properties"]["model"]["enum"] == ids
