"""A NaFlex checkpoint behind the same doors, and on the command line: against transformers in float64, and each way
against the others bit for bit."""

import json
import os
import subprocess

import numpy as np
import pytest

grpcclient = pytest.importorskip("tritonclient.grpc", reason="SIGLIP_TEST_SKIPPED: no tritonclient")
httpclient = pytest.importorskip("tritonclient.http", reason="SIGLIP_TEST_SKIPPED: no tritonclient")
from tritonclient.utils import InferenceServerException

from conftest import ROOT, skip, start_server

MODEL = "tests/golden/naflex"
GOLDEN = json.loads((ROOT / MODEL / "golden.json").read_text())
BINARY = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src" / "cli" / "siglip"
# docs/numerics.md
ERROR_RATIO, ERROR_FLOOR = 2, 5e-7
MAX_PATCHES, PATCH_VALUES = 100, 8 * 8 * 3


@pytest.fixture(scope="module")
def naflex():
    urls = start_server(["--precision", "fp32", "--threads", "2"], MODEL)
    yield urls
    urls.process.terminate()
    assert urls.process.wait(timeout=40) == 0


def siglip(*arguments, code=0):
    if not BINARY.exists():
        skip(f"{BINARY} is not built")
    run = subprocess.run([BINARY, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == code, run.stderr + run.stdout
    return run


def client_of(module, urls):
    return module.InferenceServerClient(urls.http if module is httpclient else urls.grpc)


def tensor_of(module, name, array, kind):
    tensor = module.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return tensor


def infer(module, urls, model, tensors):
    with client_of(module, urls) as client:
        return client.infer(model, tensors)


def images():
    return [(ROOT / name).read_bytes() for name in GOLDEN["images"]]


def image_tensor(module):
    return tensor_of(module, "INPUT_IMAGE", np.array(images(), dtype=object).reshape(-1, 1), "BYTES")


def encode(module, urls, pixels, shapes):
    return infer(module, urls, "siglip_vision_model", [
        tensor_of(module, "PIXEL_VALUES", pixels, "FP32"),
        tensor_of(module, "SPATIAL_SHAPES", shapes, "INT64")]).as_numpy("EMBEDDING")


def is_near(got, kind):
    want = np.array(GOLDEN[f"{kind}_embeddings"])
    error = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
    return error <= np.maximum(ERROR_FLOOR, ERROR_RATIO * np.array(GOLDEN[f"{kind}_error_of_float32"]))


@pytest.mark.parametrize("module", [httpclient, grpcclient])
def test_the_doors_and_the_steps_are_near_transformers(naflex, module):
    rows = infer(module, naflex, "embed_image", [image_tensor(module)]).as_numpy("EMBEDDING")
    assert is_near(rows, "image").all() and not is_near(rows[::-1], "image").all()
    prepared = infer(module, naflex, "siglip_vision_process", [image_tensor(module)])
    pixels, shapes = prepared.as_numpy("PIXEL_VALUES").copy(), prepared.as_numpy("SPATIAL_SHAPES")
    assert pixels.shape == (len(rows), MAX_PATCHES, PATCH_VALUES)
    assert np.array_equal(shapes, np.array(GOLDEN["spatial_shapes"]))
    for one, (height, width) in zip(pixels, shapes):
        assert (one[height * width:] == 0).all()
        one[height * width:] = np.nan  # padding is not looked at
    assert np.array_equal(encode(module, naflex, pixels, shapes), rows)
    texts = np.array([text.encode() for text in GOLDEN["texts"]], dtype=object).reshape(-1, 1)
    got = infer(module, naflex, "embed_text", [tensor_of(module, "INPUT_TEXT", texts, "BYTES")])
    assert is_near(got.as_numpy("EMBEDDING"), "text").all()


@pytest.mark.parametrize("module", [httpclient, grpcclient])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (-1, -1), (101, 1), (11, 10), (2 ** 63 - 1, 2), (2 ** 32, 2 ** 32)])
def test_a_hostile_shape_is_refused_alone(naflex, module, shape):
    pixels = np.zeros((1, MAX_PATCHES, PATCH_VALUES), np.float32)
    with pytest.raises(InferenceServerException, match="SPATIAL_SHAPES: expected rows and columns of 1 to 100 patches"):
        encode(module, naflex, pixels, np.array([shape], np.int64))
    assert np.isfinite(encode(module, naflex, pixels, np.array([(10, 10)], np.int64))).all()


def test_wrong_pixels_are_refused(naflex):
    shape = np.array([(2, 2)], np.int64)
    with pytest.raises(InferenceServerException, match="PIXEL_VALUES"):
        encode(httpclient, naflex, np.zeros((1, 4, PATCH_VALUES), np.float32), shape)
    with pytest.raises(InferenceServerException, match="input"):
        infer(httpclient, naflex, "siglip_vision_model",
              [tensor_of(httpclient, "PIXEL_VALUES", np.zeros((1, MAX_PATCHES, PATCH_VALUES), np.float32), "FP32")])


def test_the_configuration_tells_clients_what_they_need(naflex):
    with client_of(httpclient, naflex) as client:
        parameters = client.get_model_config("embed_image")["parameters"]
        metadata = client.get_model_metadata("siglip_vision_model")
    assert parameters["max_num_patches"]["string_value"] == str(MAX_PATCHES)
    assert parameters["patch_size"]["string_value"] == "8" and "image_size" not in parameters
    assert [(tensor["name"], tensor["shape"]) for tensor in metadata["inputs"]] == [
        ("PIXEL_VALUES", [-1, MAX_PATCHES, PATCH_VALUES]), ("SPATIAL_SHAPES", [-1, 2])]


def test_the_command_line_equals_the_server(naflex, tmp_path):
    out = tmp_path / "rows.npy"
    siglip("embed", "--model", MODEL, "--precision", "fp32", *GOLDEN["images"], "-q", "-o", out)
    rows = infer(httpclient, naflex, "embed_image", [image_tensor(httpclient)]).as_numpy("EMBEDDING")
    assert np.array_equal(np.load(out), rows)


def test_the_other_commands():
    assert "NaFlex, patch 8" in siglip("inspect", MODEL).stdout
    siglip("classify", "--model", MODEL, "--labels", "seven,star", *GOLDEN["images"])
    assert "10-shot" in siglip("validate", "--model", MODEL, "--data", "data/demo").stdout
    plan = siglip("serve", "--model", MODEL, "--dry-run", "--max-patches", "64").stdout
    assert "N 64" in plan and "PIXEL_VALUES FP32 [64,192], SPATIAL_SHAPES INT64 [2] -> EMBEDDING FP32 [36]" in plan


def test_a_repository_needs_the_configurations_for_naflex():
    arguments = ["serve", "--model", MODEL, "--model-repository", "model_repository", "--dry-run"]
    assert "PIXEL_VALUES FP32 [100,192], SPATIAL_SHAPES" in siglip(*arguments, "--model-config-name", "naflex").stdout
    assert "expected PIXEL_VALUES FP32 and SPATIAL_SHAPES INT64" in siglip(*arguments, code=1).stderr


def test_what_naflex_cannot_do_is_said():
    assert "NaFlex checkpoints run on a CPU only" in siglip(
        "embed", "--model", MODEL, "--device", "cuda", "--text", "a", "-o", "-", code=1).stderr
    assert "fixed resolution" in siglip(
        "embed", "--model", "models/demo", "--max-patches", "64", "--text", "a", "-o", "-", code=1).stderr
