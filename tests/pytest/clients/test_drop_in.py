"""What operators and clients of Triton use beside inference: model control, shared memory, settings,
TLS, restricted parts of the protocol, generate. With the unchanged tritonclient."""

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import openai
import pytest

import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from conftest import ROOT, start_server
from test_tritonclient import PNG, image_input, text_input


def running(arguments):
    """A fixture's life of a server with these arguments."""
    urls = start_server(arguments)
    try:
        yield urls
    finally:  # a failed test leaves no server behind
        urls.process.terminate()
        code = urls.process.wait(timeout=40)
    assert code == 0, "SIGTERM must end the server with exit code 0"


def clients(urls):
    return [(httpclient.InferenceServerClient(urls.http), httpclient),
            (grpcclient.InferenceServerClient(urls.grpc), grpcclient)]


def rows(client, module):
    index = client.get_model_repository_index() if module is httpclient else (
        client.get_model_repository_index(as_json=True).get("models", []))
    return {row["name"]: (row.get("state", ""), row.get("reason", "")) for row in index}


def await_state(client, module, model, state):
    """A model that was in use is UNLOADING until its last answer."""
    end = time.monotonic() + 20
    while rows(client, module)[model][0] != state and time.monotonic() < end:
        time.sleep(0.01)
    return rows(client, module)[model]


def embed(client, module, model="embed_image"):
    return client.infer(model, [image_input(module, [PNG[0]])]).as_numpy("EMBEDDING")


# Model control.

@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The committed repository, whose checkpoints --model replaces, and one more model under a name of its
    own."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "model_repository", folder, dirs_exist_ok=True)
    for model in folder.iterdir():
        (model / "1").mkdir(exist_ok=True)
    renamed = folder / "my_text"
    shutil.copytree(folder / "siglip_text", renamed)
    config = renamed / "config.pbtxt"
    config.write_text(config.read_text().replace('"siglip_text"', '"my_text"'))
    return folder


@pytest.fixture(scope="module")
def explicit(repository):
    yield from running(["--model-repository", str(repository), "--model-control-mode", "explicit",
                        "--load-model", "siglip_text"])


def test_load_and_unload(explicit):
    for client, module in clients(explicit):
        assert rows(client, module)["siglip_text"] == ("READY", "")
        assert client.is_server_ready() and not client.is_model_ready("embed_image")
        client.load_model("siglip_vision")
        client.load_model("embed_image")
        reference = embed(client, module)
        states = rows(client, module)
        assert states["siglip_vision_process"][0] == states["siglip_vision_model"][0] == "READY"
        client.unload_model("siglip_vision", unload_dependents=True)
        assert await_state(client, module, "siglip_vision_model", "UNAVAILABLE") == (
            "UNAVAILABLE", "unloaded")
        assert await_state(client, module, "siglip_vision", "UNAVAILABLE")[1] == "unloaded"
        with pytest.raises(InferenceServerException, match="has no available versions"):
            embed(client, module)
        assert client.is_server_ready(), "what was unloaded on purpose does not count"
        client.load_model("siglip_vision")
        np.testing.assert_array_equal(embed(client, module), reference)
        client.unload_model("siglip_vision_model")
        assert "depends on 'siglip_vision_model'" in await_state(
            client, module, "siglip_vision", "UNAVAILABLE")[1]
        client.unload_model("embed_image")
        client.unload_model("siglip_vision_process")


def test_renamed_model_and_config_override(explicit):
    for client, module in clients(explicit):
        client.load_model("my_text")
        config = {"backend": "siglip", "max_batch_size": 4,
                  "input": [{"name": "INPUT_IDS", "data_type": "TYPE_INT64", "dims": [-1]}],
                  "output": [{"name": "EMBEDDING", "data_type": "TYPE_FP32", "dims": [-1]}],
                  "parameters": {"step": {"string_value": "text"}}}
        client.load_model("my_text", config=json.dumps(config))
        seen = (client.get_model_config("my_text") if module is httpclient
                else client.get_model_config("my_text", as_json=True)["config"])
        assert seen["max_batch_size"] == 4
        client.load_model("my_text")
        client.unload_model("my_text")


def test_a_printed_configuration_can_be_loaded():
    life = running(["--model-control-mode", "explicit", "--load-model", "*"])
    client = httpclient.InferenceServerClient(next(life).http)
    models = [row["name"] for row in client.get_model_repository_index()]
    assert len(models) == 6
    for model in models:
        config = client.get_model_config(model)
        client.load_model(model, config=json.dumps(config))
        assert client.get_model_config(model) == config
    config = client.get_model_config("siglip_text")
    client.load_model("siglip_text", config=json.dumps({**config, "max_batch_size": 64}))
    assert client.get_model_config("siglip_text")["max_batch_size"] == 64
    next(life, None)


@pytest.mark.parametrize("load, text", [
    (lambda c: c.load_model("nope"), "failed to load 'nope'"),
    (lambda c: c.load_model("../siglip_text"), "model_name|Not Found"),
    (lambda c: c.load_model("my_text", config="{"), "config"),
    (lambda c: c.load_model("my_text", config='{"backend": "onnx"}'), "backend"),
    (lambda c: c.load_model("my_text", config="{}", files={"file:1/model": b"x"}), "cannot be sent"),
    (lambda c: c.unload_model("nope"), "nope")])
def test_load_refusals(explicit, load, text):
    for client, _ in clients(explicit):
        with pytest.raises(InferenceServerException, match=text):
            load(client)
        assert client.is_model_ready("siglip_text")


def test_unload_during_inference_loses_nothing(explicit):
    control = grpcclient.InferenceServerClient(explicit.grpc)
    control.load_model("siglip_vision")
    control.load_model("embed_image")

    async def run():
        good = refused = 0
        async with grpcaio.InferenceServerClient(explicit.grpc) as client:
            async def one():
                nonlocal good, refused
                for _ in range(40):
                    try:
                        await client.infer("siglip_vision", [image_input(grpcclient, [PNG[0]])])
                        good += 1
                    except InferenceServerException as error:
                        assert "has no available versions" in error.message(), error
                        refused += 1

            async def change():
                loop = asyncio.get_running_loop()
                for _ in range(6):
                    await loop.run_in_executor(
                        None, lambda: control.unload_model("siglip_vision", unload_dependents=True))
                    await loop.run_in_executor(None, lambda: control.load_model("siglip_vision"))

            await asyncio.gather(change(), *(one() for _ in range(8)))
        return good, refused

    good, refused = asyncio.run(run())
    assert good + refused == 320 and good > 0
    assert embed(control, grpcclient, "siglip_vision").shape[0] == 1


def test_polling(repository):
    added = repository / "zz_added"
    life = running(["--model-repository", str(repository), "--model-control-mode", "poll",
                    "--repository-poll-secs", "1"])
    urls = next(life)
    client = httpclient.InferenceServerClient(urls.http)
    with pytest.raises(InferenceServerException, match="not allowed if polling"):
        client.unload_model("siglip_text")
    shutil.copytree(repository / "my_text", added)
    (added / "config.pbtxt").write_text(
        (added / "config.pbtxt").read_text().replace('"my_text"', '"zz_added"'))
    end = time.monotonic() + 30
    while not client.is_model_ready("zz_added") and time.monotonic() < end:
        time.sleep(0.1)
    assert client.is_model_ready("zz_added")
    shutil.rmtree(added)
    while "zz_added" in rows(client, httpclient) and time.monotonic() < end:
        time.sleep(0.1)
    assert "zz_added" not in rows(client, httpclient)
    next(life, None)


# Shared memory.

@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    trace = tmp_path_factory.mktemp("trace") / "trace.json"
    life = running(["--allow-client-shm", "true", "--trace-config", f"triton,file={trace}",
                    "--http-header-forward-pattern", "^embed_model$",
                    "--grpc-header-forward-pattern", "^embed_model$"])
    urls = next(life)
    urls.trace = trace
    yield urls
    next(life, None)


@pytest.fixture
def memory():
    """A region of 64 kB with an image at byte 16, and its name."""
    key = f"/siglip_test_{os.getpid()}"
    handle = shm.create_shared_memory_region("region", key, 1 << 16)
    data = serialize_byte_tensor(np.array([[PNG[0]]], dtype=object))
    shm.set_shared_memory_region(handle, [data], offset=16)
    handle.input_bytes = len(data.item())
    handle.key = key
    yield handle
    shm.destroy_shared_memory_region(handle)


def test_tensors_in_shared_memory(shared, memory):
    for client, module in clients(shared):
        reference = embed(client, module)
        client.unregister_system_shared_memory()
        client.register_system_shared_memory("region", memory.key, 1 << 16)
        status = client.get_system_shared_memory_status() if module is httpclient else list(
            client.get_system_shared_memory_status(as_json=True)["regions"].values())
        assert [row["name"] for row in status] == ["region"]
        tensor = module.InferInput("INPUT_IMAGE", [1, 1], "BYTES")
        tensor.set_shared_memory("region", memory.input_bytes, offset=16)
        output = module.InferRequestedOutput("EMBEDDING")
        output.set_shared_memory("region", reference.nbytes, offset=32768)
        answer = client.infer("embed_image", [tensor], outputs=[output])
        assert answer.get_output("EMBEDDING") is not None
        got = shm.get_contents_as_numpy(memory, np.float32, reference.shape, offset=32768)
        np.testing.assert_array_equal(got, reference)
        for size, offset, text in [(memory.input_bytes - 1, 16, "byte|element|size"),
                                   (memory.input_bytes, 1 << 16, "offset"),
                                   (1 << 40, 0, "offset")]:
            tensor.set_shared_memory("region", size, offset=offset)
            with pytest.raises(InferenceServerException, match=text):
                client.infer("embed_image", [tensor])
        tensor.set_shared_memory("region", memory.input_bytes, offset=16)
        output.set_shared_memory("region", 8, offset=32768)
        with pytest.raises(InferenceServerException, match="should be at least"):
            client.infer("embed_image", [tensor], outputs=[output])
        with pytest.raises(InferenceServerException, match="already in manager"):
            client.register_system_shared_memory("region", memory.key, 16)
        client.unregister_system_shared_memory("region")
        with pytest.raises(InferenceServerException, match="Unable to find shared memory region"):
            client.infer("embed_image", [tensor])


def test_hostile_regions(shared, memory):
    for client, _ in clients(shared):
        for key in ("/../etc/passwd", "..", "/no_such_memory", "/triton_python_backend_shm_region_1"):
            with pytest.raises(InferenceServerException):
                client.register_system_shared_memory("bad", key, 16)
        for size, offset in ((1 << 17, 0), (16, 1 << 40), (0, 0)):
            with pytest.raises(InferenceServerException):
                client.register_system_shared_memory("bad", memory.key, size, offset=offset)
        with pytest.raises(InferenceServerException, match="GPUs not supported"):
            client.register_cuda_shared_memory("cuda", b"A" * 88, 0, 64)
        client.unregister_cuda_shared_memory()


def test_shared_memory_is_off_by_default(server, memory):
    for client, _ in clients(server):
        with pytest.raises(InferenceServerException, match="Client shared memory is disabled"):
            client.register_system_shared_memory("region", memory.key, 16)


def test_perf_analyzer_with_shared_memory(shared, tmp_path):
    from test_perf_analyzer import environment, write_input
    binary, env = environment()
    data = tmp_path / "input.json"
    write_input(data)
    for protocol, url in (("grpc", shared.grpc), ("http", shared.http)):
        parameter = ["--request-parameter=base64_encoded:true:bool"] if protocol == "grpc" else []
        model = "embed_image" if protocol == "grpc" else "embed_text"
        inputs = ["--input-data", str(data)] if protocol == "grpc" else ["--string-data", "seven"]
        run = subprocess.run(
            [binary, "-m", model, "-i", protocol, "-u", url, *parameter, *inputs, "--shared-memory",
             "system", "--output-shared-memory-size", "65536", "--concurrency-range=4",
             "--measurement-interval", "1000", "--max-trials", "3", "--stability-percentage", "999"],
            env=env, capture_output=True, text=True, timeout=200)
        assert run.returncode == 0 and "Throughput" in run.stdout, run.stdout + run.stderr


# Trace and log settings.

def test_trace_settings(shared):
    client = grpcclient.InferenceServerClient(shared.grpc)
    http = httpclient.InferenceServerClient(shared.http)
    assert http.get_trace_settings()["trace_level"] == ["OFF"]
    changed = http.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1",
                                                   "trace_count": "2"})
    assert changed["trace_rate"] == "1"
    assert client.get_trace_settings(as_json=True)["settings"]["trace_level"]["value"] == ["TIMESTAMPS"]
    client.update_trace_settings("embed_text", {"trace_level": ["OFF"]})
    client.infer("embed_text", [text_input(grpcclient, ["seven"])])
    embed(http, httpclient)
    client.infer("embed_image", [image_input(grpcclient, [PNG[0]])], request_id="traced")
    embed(client, grpcclient)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        spans = json.loads(shared.trace.read_text()) if shared.trace.exists() else []
        named = [span for span in spans if "model_name" in span]
        if len(named) == 8:
            break
        time.sleep(0.05)
    assert sorted(span["model_name"] for span in named) == sorted(
        ["embed_image", "siglip_vision", "siglip_vision_process", "siglip_vision_model"] * 2)
    times = {span["id"]: {t["name"]: t["ns"] for t in span["timestamps"]}
             for span in spans if "timestamps" in span}
    ids = {span["id"] for span in named}
    assert all(span["parent_id"] in ids for span in named if span["model_name"] != "embed_image")
    order = ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END",
             "COMPUTE_OUTPUT_START", "COMPUTE_END", "REQUEST_END"]
    for span in named:
        hops = times[span["id"]]
        if span["model_name"] != "siglip_vision":  # an ensemble, which computes nothing
            assert [hops[name] for name in order] == sorted(hops[name] for name in order)
        assert ("INFER_RESPONSE_COMPLETE" in hops) == ("parent_id" not in span)
        if span.get("request_id") == "traced" and "parent_id" not in span:
            door = ["GRPC_WAITREAD_START", "GRPC_WAITREAD_END", "REQUEST_END", "INFER_RESPONSE_COMPLETE",
                    "GRPC_SEND_START", "GRPC_SEND_END"]
            assert [hops[name] for name in door] == sorted(hops[name] for name in door)
    assert any("HTTP_RECV_START" in hops and "HTTP_SEND_END" in hops for hops in times.values())
    http.update_trace_settings("embed_text", {"trace_level": None})
    assert http.get_trace_settings("embed_text")["trace_level"] == ["TIMESTAMPS"]
    for settings in ({"trace_rate": "0"}, {"trace_file": "/tmp/x"}, {"nonsense": "1"}):
        for c, _ in clients(shared):
            with pytest.raises(InferenceServerException):
                c.update_trace_settings(settings=settings)
    http.update_trace_settings(settings={"trace_level": ["OFF"]})


def test_log_settings(shared):
    for client, module in clients(shared):
        changed = client.update_log_settings({"log_info": False, "log_verbose_level": 1,
                                              "log_format": "ISO8601"})
        if module is httpclient:
            assert changed["log_verbose_level"] == 1 and changed["log_format"] == "ISO8601"
            assert client.get_log_settings()["log_info"] is False
        else:
            assert client.get_log_settings(as_json=True)["settings"]["log_info"]["bool_param"] is False
        client.update_log_settings({"log_info": True, "log_verbose_level": 0,
                                    "log_format": "default"})
        # The gRPC client itself refuses wrong types.
        wrong = [{"log_file": "/tmp/x"}, {"nonsense": True}, {"log_format": "loud"}]
        for settings in wrong + ([{"log_info": "yes"}] if module is httpclient else []):
            with pytest.raises(InferenceServerException):
                client.update_log_settings(settings)


# Headers and generate.

def test_headers_become_parameters(shared):
    for client, module in clients(shared):
        with pytest.raises(InferenceServerException, match="embed_model.*nope"):
            client.infer("embed_image", [image_input(module, [PNG[0]])], headers={"embed_model": "nope"})
        client.infer("embed_image", [image_input(module, [PNG[0]])], headers={"other": "nope"})


def generate(server, body, action="generate"):
    request = urllib.request.Request(
        f"http://{server.http}/v2/models/embed_text/{action}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.headers["Content-Type"], response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_generate(server):
    client = httpclient.InferenceServerClient(server.http)
    reference = client.infer("embed_text", [text_input(httpclient, ["seven"])]).as_numpy("EMBEDDING")
    status, kind, body = generate(server, {"INPUT_TEXT": "seven", "embed_model": "siglip_text"})
    answer = json.loads(body)
    assert status == 200 and kind == "application/json" and answer["model_name"] == "embed_text"
    np.testing.assert_array_equal(np.array(answer["EMBEDDING"], np.float32), reference.ravel())
    status, kind, body = generate(server, {"INPUT_TEXT": "seven"}, "generate_stream")
    assert status == 200 and kind.startswith("text/event-stream")
    assert body.startswith(b"data: {") and body.endswith(b"}\n\n")
    assert json.loads(body[6:]) == answer
    for wrong in ({}, {"INPUT_TEXT": 7}, {"INPUT_TEXT": "x", "embed_model": "nope"},
                  {"INPUT_TEXT": "x", "parameter": None}):
        status, _, body = generate(server, wrong)
        assert status == 400 and json.loads(body)["error"], wrong


# Restricted parts.

def test_restricted_parts():
    life = running(["--http-restricted-api", "inference,logging:secret=open sesame",
                    "--grpc-restricted-protocol", "inference,health:secret=open"])
    urls = next(life)
    (http, _), (grpc, _) = clients(urls)
    inputs = image_input(httpclient, [PNG[0]])
    for headers in ({}, {"secret": "wrong"}):
        with pytest.raises(InferenceServerException, match="restricted, expecting header 'secret'"):
            http.infer("embed_image", [inputs], headers=headers)
    http.infer("embed_image", [inputs], headers={"Secret": "open sesame"})
    assert http.is_server_ready()
    inputs = image_input(grpcclient, [PNG[0]])
    with pytest.raises(InferenceServerException, match="expecting header 'triton-grpc-protocol-secret'"):
        grpc.infer("embed_image", [inputs])
    with pytest.raises(InferenceServerException, match="restricted"):
        grpc.is_server_live()
    grpc.infer("embed_image", [inputs], headers={"triton-grpc-protocol-secret": "open"})
    grpc.get_server_metadata()
    answers = []
    grpc.start_stream(callback=lambda result, error: answers.append(error))
    try:
        grpc.async_stream_infer("embed_image", [inputs])
    except InferenceServerException:
        pass  # the refusal came first
    grpc.stop_stream()
    assert any("restricted" in str(error) for error in answers)
    next(life, None)


# TLS.

def make_certificates(folder):
    """A root, a server certificate for localhost and a client's, with openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("SIGLIP_TEST_SKIPPED: no openssl")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "root.key", "-out", "root.pem",
            "-subj", "/CN=root", "-days", "2")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "other", "client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "root.pem", "-CAkey", "root.key",
                "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "names")
    return folder


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def tls_arguments(folder, mutual=False):
    arguments = []
    for door in ("http", "grpc"):
        arguments += [f"--{door}-use-ssl{'-mutual' if mutual else ''}", "true",
                      f"--{door}-server-cert", str(folder / "served.pem"),
                      f"--{door}-server-key", str(folder / "served.key"),
                      f"--{door}-root-cert", str(folder / "root.pem")]
    return arguments


def serve_certificate(folder, name):
    for end in ("key", "pem"):
        staged = folder / f"staged.{end}"
        shutil.copy(folder / f"{name}.{end}", staged)
        os.replace(staged, folder / f"served.{end}")


def https(urls, folder, client=False):
    context = ssl.create_default_context(cafile=str(folder / "root.pem"))
    if client:
        context.load_cert_chain(str(folder / "client.pem"), str(folder / "client.key"))
    return urllib.request.urlopen(f"https://{urls.http}/v2", context=context, timeout=20).status


def common_name(address):
    text = subprocess.run(["openssl", "s_client", "-connect", address], input="", capture_output=True, text=True).stdout
    return "other" if "CN = other" in text else "server" if "CN = server" in text else text


def test_tls_on_both_doors(certificates):
    serve_certificate(certificates, "server")
    life = running(tls_arguments(certificates))
    urls = next(life)
    assert https(urls, certificates) == 200
    http = httpclient.InferenceServerClient(
        urls.http, ssl=True, ssl_options={"ca_certs": str(certificates / "root.pem")})
    grpc = grpcclient.InferenceServerClient(
        urls.grpc, ssl=True, root_certificates=str(certificates / "root.pem"))
    reference = embed(http, httpclient)
    np.testing.assert_array_equal(embed(grpc, grpcclient), reference)
    with pytest.raises(Exception):
        httpclient.InferenceServerClient(urls.http, network_timeout=2).is_server_live()
    for name, half in (("other", "pem"), ("server", "key")):
        serve_certificate(certificates, name)
        urls.process.send_signal(signal.SIGHUP)
        for address in (urls.http, urls.grpc):
            end = time.monotonic() + 20
            while common_name(address) != name and time.monotonic() < end:
                time.sleep(0.1)
            assert common_name(address) == name
        # One file of another pair: longer than gRPC takes to see new ones.
        shutil.copy(certificates / f"client.{half}", certificates / f"served.{half}")
        urls.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert [common_name(address) for address in (urls.http, urls.grpc)] == [name, name]
    (certificates / "served.pem").write_text("nonsense")
    urls.process.send_signal(signal.SIGHUP)
    assert embed(http, httpclient).shape == reference.shape, "a bad file changes nothing"
    next(life, None)


def test_mutual_tls(certificates):
    serve_certificate(certificates, "server")
    life = running(tls_arguments(certificates, mutual=True))
    urls = next(life)
    assert https(urls, certificates, client=True) == 200
    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        https(urls, certificates)
    root = str(certificates / "root.pem")
    known = grpcclient.InferenceServerClient(
        urls.grpc, ssl=True, root_certificates=root, private_key=str(certificates / "client.key"),
        certificate_chain=str(certificates / "client.pem"))
    assert known.is_server_live()
    with pytest.raises(InferenceServerException):
        grpcclient.InferenceServerClient(urls.grpc, ssl=True, root_certificates=root).is_server_live(
            client_timeout=5)
    next(life, None)


def test_api_keys(tmp_path):
    keys = tmp_path / "keys"
    first, second = "first-key-of-this-test", "second-key-of-this-test"
    keys.write_text(f"# of this test\n{first}\n")
    life = running(["--api-key-file", str(keys), "--log-verbose", "1",
                    "--http-header-forward-pattern", ".*", "--grpc-header-forward-pattern", ".*"])
    urls = next(life)
    log = []

    def await_line(text):
        for line in urls.process.stdout:
            log.append(line)
            if text in line:
                return

    def works(key, module, url):
        headers = {"authorization": f"Bearer {key}"} if key else None
        client = module.InferenceServerClient(url)
        assert client.is_server_ready(), "health needs no key"
        try:
            client.infer("embed_text", [text_input(module, ["a"])], headers=headers)
            return True
        except InferenceServerException as error:
            assert error.status() in ("401", "StatusCode.UNAUTHENTICATED")
            return False

    def all_work(key):
        answers = {works(key, httpclient, urls.http), works(key, grpcclient, urls.grpc),
                   openai_works(urls, key or "none")}
        assert len(answers) == 1
        return answers.pop()

    assert not all_work(None) and not all_work(second) and all_work(first)
    keys.write_text("short\n")
    urls.process.send_signal(signal.SIGHUP)
    await_line("files_not_reloaded")
    assert all_work(first)
    keys.write_text(second)
    urls.process.send_signal(signal.SIGHUP)
    await_line("files_reloaded")
    assert all_work(second) and not all_work(first)
    next(life, None)
    log = "".join(log) + urls.process.stdout.read()
    assert "infer model=embed_text" in log
    assert first not in log and second not in log and "short" not in log


def openai_works(urls, key):
    client = openai.OpenAI(base_url=f"http://{urls.http}/v1", api_key=key, max_retries=0)
    try:
        return client.embeddings.create(model="embed_text", input="a").usage.total_tokens > 0
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key"
        return False


@pytest.mark.parametrize("arguments, text", [
    (["--api-key-file", "/no/keys"], "/no/keys"),
    (["--http-restricted-api", "inference:key"], "inference:key"),
    (["--http-use-ssl", "true", "--http-server-cert", "/no/cert"], "/no/cert"),
    (["--grpc-use-ssl-mutual", "true", "--grpc-server-cert", "x"], "root certificate"),
    (["--http-restricted-api", "everything:a=b"], "everything"),
    (["--trace-config", "speed=1"], "speed=1"),
    (["--http-header-forward-pattern", "("], "header forward pattern"),
    (["--log-file", "README.md/log"], "README.md/log"),
    (["--model-control-mode", "sometimes"], "model-control-mode")])
def test_wrong_options_end_the_start(arguments, text):
    with pytest.raises(RuntimeError, match=text):
        start_server(arguments)


def test_older_forms_of_options_are_taken(tmp_path):
    """Forms that launch scripts of Triton have: what it calls deprecated, words in any case, and of one that is given
    twice the last."""
    trace = tmp_path / "trace.json"
    life = running(["--trace-file", str(trace), "--trace-level=True", "--trace-rate=5", "--trace-count", "3",
                    "--trace-log-frequency", "2", "--trace-rate", "1", "--id", "other", "--id", "mine",
                    "--model-control-mode=EXPLICIT", "--grpc-infer-response-compression-level", "LOW",
                    "--log-verbose=true"])
    client = httpclient.InferenceServerClient(next(life).http)
    assert client.get_trace_settings() == {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "3",
                                           "log_frequency": "2", "trace_file": str(trace), "trace_mode": "triton"}
    assert client.get_server_metadata()["name"] == "mine"
    assert client.get_log_settings()["log_verbose_level"] == 1
    client.load_model("embed_text")
    next(life, None)


def test_tritons_options_are_taken():
    life = running(["--id", "mine", "--disable-auto-complete-config", "--backend-config", "siglip,x=1",
                    "--backend-config=siglip,y=2", "--pinned-memory-pool-byte-size", "1000",
                    "--allow-gpu-metrics=false", "--grpc-keepalive-time", "7200000",
                    "--grpc-keepalive-permit-without-calls", "false", "--log-verbose", "1",
                    "--grpc-infer-response-compression-level", "low", "--strict-readiness=false"])
    urls = next(life)
    client = httpclient.InferenceServerClient(urls.http)
    assert client.get_server_metadata()["name"] == "mine"
    np.testing.assert_array_equal(
        embed(client, httpclient), embed(grpcclient.InferenceServerClient(urls.grpc), grpcclient))
    next(life, None)
