"""Queues, the response cache and metrics of a running server, through the unchanged tritonclient."""

import concurrent.futures
import json
import re
import shutil
import socket
import ssl
import time
import urllib.request

import numpy as np
import pytest

import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from conftest import ROOT
from test_drop_in import certificates, clients, embed, running, serve_certificate, tls_arguments  # noqa: F401
from test_tritonclient import PNG, image_input, text_input


def metrics(urls):
    with urllib.request.urlopen(f"http://{urls.metrics}/metrics") as response:
        return response.read().decode()


def value(text, name, **labels):
    """The sample of `name` whose labels include these."""
    for line in text.splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name:
            own = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if labels.items() <= own.items():
                return float(found[3])
    return None


@pytest.fixture(scope="module")
def slow_repository(tmp_path_factory):
    """siglip_text in a queue that fills slowly, with two priorities; everything else as shipped, but that
    siglip_vision_model has tags and bounds of its own."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "model_repository", folder, dirs_exist_ok=True)
    for model in folder.iterdir():
        (model / "1").mkdir(exist_ok=True)
    config = folder / "siglip_text" / "config.pbtxt"
    text = re.sub(r"dynamic_batching \{.*?\n\}\n", """dynamic_batching {
  preferred_batch_size: [ 4 ]
  max_queue_delay_microseconds: 2000000
  priority_levels: 2
  default_priority_level: 1
  priority_queue_policy { key: 2 value { max_queue_size: 1 default_timeout_microseconds: 1000 } }
}
""", config.read_text(), flags=re.DOTALL)
    assert "priority_levels" in text
    config.write_text(text)
    config = folder / "siglip_vision_model" / "config.pbtxt"
    config.write_text(config.read_text() + """
metric_tags { key: "team" value: "a" }
model_metrics { metric_control { metric_identifier { family: "nv_inference_first_response_histogram_ms" }
                                 histogram_options { buckets: [ 0.5, 60000 ] } } }
""")
    return folder


@pytest.fixture(scope="module")
def served(slow_repository):
    yield from running(["--model-repository", str(slow_repository), "--cache-config", "local,size=4194304",
                        "--metrics-config", "summary_latencies=true"])


def token_ids(module, client, rows=1):
    """Input of siglip_text; `client` speaks HTTP."""
    length = client.get_model_metadata("siglip_text")["inputs"][0]["shape"][1]
    tensor = module.InferInput("INPUT_IDS", [rows, length], "INT64")
    tensor.set_data_from_numpy(np.ones([rows, length], dtype=np.int64))
    return [tensor]


def test_the_clients_timeout_fires(served):
    """The queue waits two seconds for more; the client waits 20 ms."""
    http = httpclient.InferenceServerClient(served.http)
    for client, module in clients(served):
        with pytest.raises(InferenceServerException, match="Request timeout expired"):
            client.infer("siglip_text", token_ids(module, http), timeout=20000)
        with pytest.raises(InferenceServerException, match="Request timeout expired"):
            client.infer("embed_text", [text_input(module, ["never answered before"])], timeout=20000)


def test_a_grpc_deadline_takes_the_request_from_the_queue(served):
    http = httpclient.InferenceServerClient(served.http)
    before = value(metrics(served), "nv_inference_request_failure", model="siglip_text", reason="CANCELED")
    client = grpcclient.InferenceServerClient(served.grpc)
    with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
        client.infer("siglip_text", token_ids(grpcclient, http), client_timeout=0.05)
    # A full batch goes out at once, without the one that nobody waits for.
    assert http.infer("siglip_text", token_ids(httpclient, http, rows=4)).as_numpy("EMBEDDING").shape[0] == 4
    after = value(metrics(served), "nv_inference_request_failure", model="siglip_text", reason="CANCELED")
    assert after == before + 1


def test_a_farewell_over_tls_cancels(slow_repository, certificates, tmp_path):  # noqa: F811
    """curl, Go and proxies end TLS before they hang up, so that the end is behind bytes that nobody reads."""
    shutil.copytree(slow_repository, tmp_path / "repository")
    config = tmp_path / "repository/siglip_text/config.pbtxt"
    config.write_text(config.read_text().replace("microseconds: 2000000", "microseconds: 30000000"))
    serve_certificate(certificates, "server")
    life = running(["--model-repository", str(tmp_path / "repository"), *tls_arguments(certificates)])
    urls = next(life)
    context = ssl.create_default_context(cafile=str(certificates / "root.pem"))
    with urllib.request.urlopen(f"https://{urls.http}/v2/models/siglip_text", context=context) as answer:
        length = json.loads(answer.read())["inputs"][0]["shape"][1]
    body = json.dumps({"inputs": [{"name": "INPUT_IDS", "shape": [1, length], "datatype": "INT64",
                                   "data": [1] * length}]}).encode()
    host, port = urls.http.split(":")
    client = context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host)
    client.sendall(b"POST /v2/models/siglip_text/infer HTTP/1.1\r\nHost: a\r\n"
                   b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    begin = time.monotonic()

    def await_value(name, expected, **labels):
        while value(metrics(urls), name, model="siglip_text", **labels) != expected:
            assert time.monotonic() - begin < 20, f"{name} is not {expected}"
            time.sleep(0.02)

    await_value("nv_inference_pending_request_count", 1)
    client.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()  # sends the farewell, and would wait for the server's
    client.close()
    # Before the queue's delay of 30 seconds ends.
    await_value("nv_inference_request_failure", 1, reason="CANCELED")
    next(life, None)


def test_priorities(served):
    """Level 2 has a place for one, and a millisecond."""
    client = httpclient.InferenceServerClient(served.http)
    tensor = token_ids(httpclient, client)
    with pytest.raises(InferenceServerException, match="Request timeout expired"):
        client.infer("siglip_text", tensor, priority=2)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # four of level 1 are a batch of a preferred size
        answers = [pool.submit(httpclient.InferenceServerClient(served.http).infer, "siglip_text", tensor)
                   for _ in range(4)]
        assert all(answer.result().as_numpy("EMBEDDING").shape[0] == 1 for answer in answers)


def test_cache(served):
    for client, module in clients(served):
        def statistics(model):
            rows = client.get_inference_statistics(model) if module is httpclient else (
                client.get_inference_statistics(model, as_json=True))
            row = rows["model_stats"][0]
            return {name: int(row["inference_stats"].get(name, {}).get("count", 0))
                    for name in ("success", "queue", "compute_infer", "cache_hit", "cache_miss")}

        image = [image_input(module, [PNG[1]])]
        first = client.infer("embed_image", image)
        before, inner = statistics("embed_image"), statistics("siglip_vision_model")
        again = client.infer("embed_image", image, request_id="x")
        after = statistics("embed_image")
        np.testing.assert_array_equal(first.as_numpy("EMBEDDING"), again.as_numpy("EMBEDDING"))
        assert after["cache_hit"] == before["cache_hit"] + 1
        assert after["success"] == before["success"] + 1 and after["queue"] == after["success"]
        assert after["compute_infer"] == after["success"] - after["cache_hit"]
        assert statistics("siglip_vision_model") == inner
        # The same bytes, but another request; it counts though it fails.
        with pytest.raises(InferenceServerException):
            client.infer("embed_image", image, parameters={"base64_encoded": True})
        assert client.infer("embed_image", image, parameters={"x": module.__name__}).as_numpy("EMBEDDING").shape[0] == 1
        assert statistics("embed_image")["cache_miss"] == after["cache_miss"] + 2


def test_metrics_of_everything(served):
    client = httpclient.InferenceServerClient(served.http)
    embed(client, httpclient)
    before = metrics(served)
    for bad in (b"", b"no image at all", PNG[0][:60]):
        with pytest.raises(InferenceServerException):
            client.infer("embed_image", [image_input(httpclient, [bad])])
    text = metrics(served)
    assert value(text, "nv_cache_num_misses_per_model", model="embed_image", version="1") > 0
    assert value(text, "nv_cache_num_hits_per_model", model="siglip_vision_model") is None
    histogram = "nv_inference_first_response_histogram_ms"
    tagged = {"model": "siglip_vision_model", "_team": "a"}
    answered = value(text, "nv_inference_request_success", **tagged)
    assert value(text, f"{histogram}_bucket", **tagged, le="60000") == answered
    assert value(text, f"{histogram}_bucket", **tagged, le="+Inf") == answered
    assert value(text, f"{histogram}_count", **tagged) == answered
    assert value(text, f"{histogram}_bucket", model="embed_image", le="5000") > 0
    assert value(text, "nv_inference_request_summary_us", **tagged, quantile="0.99") > 0
    for stage in ("decode", "resize", "normalize"):
        labels = {"model": "siglip_vision_process", "stage": stage}
        assert value(text, "siglip_image_stage_items_total", **labels) > 0
        assert value(text, "siglip_image_stage_seconds_total", **labels) > 0
    for reason in ("empty", "unknown_format", "damaged"):
        labels = {"model": "siglip_vision_process", "reason": reason}
        refused = value(text, "siglip_images_rejected_total", **labels)
        assert refused == (value(before, "siglip_images_rejected_total", **labels) or 0) + 1, reason


@pytest.mark.usefixtures("fake_gpus")
@pytest.mark.parametrize("arguments, found", [
    ([], True), (["--allow-gpu-metrics", "true"], True), (["--allow-gpu-metrics=false"], False)])
def test_gpu_metrics(arguments, found):
    life = running(arguments)
    text = metrics(next(life))
    assert (value(text, "nv_gpu_utilization", gpu_uuid="GPU-00000000-0000-0000-0000-000000000001") == 0.37) == found
    assert len(re.findall(r"^nv_(?:gpu|energy)_", text, re.MULTILINE)) == (8 if found else 0)
    next(life, None)


@pytest.mark.parametrize("allowed", [True, False])
def test_cpu_metrics(allowed):
    life = running([f"--allow-cpu-metrics={str(allowed).lower()}"])
    assert len(re.findall(r"^nv_cpu_\w+ ", metrics(next(life)), re.MULTILINE)) == (3 if allowed else 0)
    next(life, None)


def test_without_options_there_is_no_cache_and_no_summary(server):
    client = httpclient.InferenceServerClient(server.http)
    assert client.get_model_config("embed_image")["response_cache"]["enable"] is False
    text = metrics(server)
    assert "nv_cache" not in text and "_summary_" not in text
    assert value(text, "nv_inference_first_response_histogram_ms_count", model="embed_image") is not None
