"""The contract's perf_analyzer command, unchanged: no failures, a row for every composing model."""

import base64
import json
import os
import re
import struct
import subprocess

import pytest

from test_drop_in import running
from test_tritonclient import make_png

COMPOSING = ["siglip_vision", "siglip_vision_process", "siglip_vision_model"]


def environment():
    binary = os.environ.get("SIGLIP_PERF_ANALYZER")
    if not binary:
        pytest.skip("SIGLIP_TEST_SKIPPED: SIGLIP_PERF_ANALYZER is not set")
    env = dict(os.environ)
    cudart = os.environ.get("SIGLIP_CUDART_DIR")
    if cudart:
        env["LD_LIBRARY_PATH"] = f"{cudart}:{env.get('LD_LIBRARY_PATH', '')}"
    return binary, env


def write_input(path):
    """b64 content of a BYTES tensor carries its length prefix; what is inside is base64 text again."""
    text = base64.b64encode(make_png(5))
    element = base64.b64encode(struct.pack("<I", len(text)) + text).decode()
    path.write_text(json.dumps({"data": [{"INPUT_IMAGE": {"content": {"b64": element}, "shape": [1]}}]}))


def test_contract_command(server, tmp_path):
    binary, env = environment()
    data = tmp_path / "input.json"
    write_input(data)
    command = [binary, "-m", "embed_image", "-i", "grpc", "-u", server.grpc,
               "--request-parameter=base64_encoded:true:bool", "--input-data", str(data),
               "--bls-composing=" + ",".join(COMPOSING), "--concurrency-range=60",
               "--measurement-interval", "2000", "--max-trials", "4", "--stability-percentage", "999"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    text = run.stdout + run.stderr
    assert run.returncode == 0, text
    assert "Failed" not in text and "failed" not in text, text
    throughput = re.search(r"Throughput: ([\d.]+) infer/sec", text)
    assert throughput and float(throughput.group(1)) > 0, text
    for model in COMPOSING:
        assert re.search(rf"^\s*{model}, version: ?1?", text, re.M), f"no row of {model}:\n{text}"
    assert re.search(r"Inference count: [1-9]", text), text


@pytest.mark.parametrize("options", [
    ["-i", "grpc", "--streaming"], ["-i", "http"],
    ["-i", "grpc", "--collect-metrics", "--metrics-interval", "200"]],
    ids=["streaming", "http", "collect-metrics"])
def test_modes(server, tmp_path, options):
    """Its other ways to ask. Over HTTP its client loses request parameters, so the pictures are sent as they are."""
    binary, env = environment()
    picture = make_png(5)
    element = base64.b64encode(struct.pack("<I", len(picture)) + picture).decode()
    data = tmp_path / "input.json"
    data.write_text(json.dumps({"data": [{"INPUT_IMAGE": {"content": {"b64": element}, "shape": [1]}}]}))
    command = [binary, "-m", "embed_image", "-u", server.http if "http" in options else server.grpc,
               "--input-data", str(data), "--concurrency-range=8",
               "--measurement-interval", "500", "--max-trials", "3", "--stability-percentage", "999", *options]
    if "--collect-metrics" in options:
        command += ["--metrics-url", f"{server.metrics}/metrics"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    text = run.stdout + run.stderr
    assert run.returncode == 0, text
    throughput = re.search(r"Throughput: ([\d.]+) infer/sec", text)
    assert throughput and float(throughput.group(1)) > 0, text
    assert not re.search(r"[1-9]\d* failed|Failed to|error", text), text
    assert re.search(r"Inference count: [1-9]", text), text


def test_random_floats_as_json(server):
    """Random bits are what it sends where it is given no data. Some are NaN, which its JSON calls so."""
    binary, env = environment()
    run = subprocess.run([binary, "-m", "siglip_vision_model", "-i", "http", "-u", server.http,
                          "--input-tensor-format", "json", "--output-tensor-format", "json",
                          "--measurement-interval", "500", "--max-trials", "3", "--stability-percentage", "999"],
                         env=env, capture_output=True, text=True, timeout=120)
    text = run.stdout + run.stderr
    assert run.returncode == 0, text
    assert re.search(r"Throughput: [1-9]", text) and not re.search(r"[1-9]\d* failed|Failed to|error", text), text


@pytest.mark.usefixtures("fake_gpus")
def test_gpus_of_the_metrics():
    binary, env = environment()
    life = running([])
    urls = next(life)
    run = subprocess.run([binary, "-m", "embed_text", "-i", "grpc", "-u", urls.grpc, "--collect-metrics",
                          "--metrics-url", f"{urls.metrics}/metrics", "--metrics-interval", "100",
                          "--measurement-interval", "500", "--max-trials", "3", "--stability-percentage", "999"],
                         env=env, capture_output=True, text=True, timeout=120)
    text = run.stdout + run.stderr
    assert run.returncode == 0, text
    first, second = (f"GPU-00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))
    for line in (f"{first} : 37%", f"{first} : 412.345 watts", f"{first} : 60754820096 bytes",
                 f"{second} : 150754820096 bytes"):
        assert line in text, text
    next(life, None)
