"""Every public method of tritonclient's four clients. One that a newer tritonclient brings fails here until it is
called."""

import asyncio
import inspect
import queue

import numpy as np
import pytest

import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc.auth import BasicAuth as GrpcAuth
from tritonclient.http.auth import BasicAuth as HttpAuth
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from test_drop_in import running
from test_tritonclient import PNG, image_input

# What the methods of the two protocols take beside headers.
HTTP = {"query_params": {"any": 1}}
GRPC = {"client_timeout": 20}


class Client:
    """One of the clients, asynchronous or not, and which of its methods were called."""

    def __init__(self, name, urls):
        self.is_http, self.is_aio = "http" in name, "aio" in name
        self.module = httpclient if self.is_http else grpcclient
        self.loop, self.called = asyncio.new_event_loop(), set()
        made = {"http": httpclient, "grpc": grpcclient, "http_aio": httpaio, "grpc_aio": grpcaio}[name]
        self.client = self.wait(self.make(made.InferenceServerClient, urls.http if self.is_http else urls.grpc))

    @staticmethod
    async def make(kind, url):
        return kind(url)  # within the loop, as aiohttp wants it

    def wait(self, result):
        return self.loop.run_until_complete(result) if inspect.isawaitable(result) else result

    def method(self, name):
        self.called.add(name)
        return getattr(self.client, name)

    def call(self, name, *args, **kwargs):
        headers = {"x-any": "1"}  # to which the client adds
        return self.wait(self.method(name)(*args, headers=headers, **kwargs, **(HTTP if self.is_http else GRPC)))

    def read(self, name, *args):
        """The answer as the JSON that both protocols have."""
        return self.call(name, *args, **({} if self.is_http else {"as_json": True}))

    def refused(self, text, name, *args, **kwargs):
        with pytest.raises(InferenceServerException, match=text):
            self.call(name, *args, **kwargs)

    def left_out(self):
        return {name for name, _ in inspect.getmembers(type(self.client), callable) if name[0] != "_"} - self.called


@pytest.fixture(scope="module")
def urls():
    # The steps of siglip_vision come with it, and go with it.
    models = [f"--load-model={name}" for name in ("siglip_vision", "siglip_text", "embed_image", "embed_text")]
    yield from running(["--model-control-mode", "explicit", *models, "--allow-client-shm", "true"])


@pytest.fixture(params=["http", "grpc", "http_aio", "grpc_aio"])
def client(request, urls):
    made = Client(request.param, urls)
    yield made
    made.call("unregister_system_shared_memory")
    made.wait(made.client.close())
    made.loop.close()


def read_everything(c):
    assert c.call("is_server_live") and c.call("is_server_ready")
    assert c.call("is_model_ready", "embed_image") and c.call("is_model_ready", "embed_image", "1")
    assert not c.call("is_model_ready", "nope")
    assert c.read("get_server_metadata")["name"] == "triton"
    assert c.read("get_model_metadata", "siglip_vision", "1")["platform"] == "ensemble"
    config = c.read("get_model_config", "embed_text")
    assert config.get("config", config)["name"] == "embed_text"
    assert len(c.read("get_inference_statistics")["model_stats"]) == 6
    assert len(c.read("get_inference_statistics", "embed_text", "1")["model_stats"]) == 1


def change_settings(c):
    assert "trace_rate" in str(c.read("get_trace_settings"))
    assert "'7'" in str(c.read("update_trace_settings", "embed_text", {"trace_rate": "7"}))
    assert "'7'" in str(c.read("get_trace_settings", "embed_text"))
    assert "'7'" not in str(c.read("update_trace_settings", "embed_text", {"trace_rate": None}))
    assert "log_info" in str(c.read("get_log_settings"))
    assert "ISO8601" in str(c.read("update_log_settings", {"log_format": "ISO8601", "log_verbose_level": 0}))
    assert "ISO8601" not in str(c.read("update_log_settings", {"log_format": "default"}))


def control_models(c):
    c.call("unload_model", "siglip_vision", unload_dependents=True)
    assert not c.call("is_model_ready", "siglip_vision_process")
    c.call("load_model", "siglip_vision")
    assert c.call("is_model_ready", "siglip_vision_process")
    c.refused("failed to load 'nope'", "load_model", "nope")
    assert "READY" in str(c.read("get_model_repository_index"))


def share_memory(c):
    data = serialize_byte_tensor(np.array([[PNG[0]]], dtype=object))
    size = len(data.item())
    handles = [shm.create_shared_memory_region(name, f"/siglip_{name}", byte_size)
               for name, byte_size in (("method_in", size), ("method_out", 512))]
    try:
        shm.set_shared_memory_region(handles[0], [data])
        c.call("register_system_shared_memory", "in", "/siglip_method_in", size)
        c.call("register_system_shared_memory", "out", "/siglip_method_out", 512, offset=0)
        c.refused("already", "register_system_shared_memory", "in", "/siglip_method_in", size)
        tensor = c.module.InferInput("INPUT_IMAGE", [1, 1], "BYTES")
        tensor.set_shared_memory("in", size)
        output = c.module.InferRequestedOutput("EMBEDDING")
        output.set_shared_memory("out", 512)
        c.call("infer", "embed_image", [tensor], outputs=[output])
        shared = shm.get_contents_as_numpy(handles[1], np.float32, [1, 128])
        np.testing.assert_array_equal(shared, infer(c).as_numpy("EMBEDDING"))
        assert len(c.read("get_system_shared_memory_status")) >= 1 and c.read("get_system_shared_memory_status", "in")
        c.call("unregister_system_shared_memory", "in")
        c.call("unregister_system_shared_memory")
        assert not c.read("get_system_shared_memory_status")
    finally:
        for handle in handles:
            shm.destroy_shared_memory_region(handle)
    c.refused("GPUs not supported", "register_cuda_shared_memory", "gpu", b"eA==", 0, 64)
    assert not c.read("get_cuda_shared_memory_status")
    c.call("unregister_cuda_shared_memory")


def infer(c, **kwargs):
    return c.call("infer", "embed_image", [image_input(c.module, [PNG[0]])], **kwargs)


def infer_with_everything(c):
    packed = ({"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"} if c.is_http
              else {"compression_algorithm": "gzip"})
    result = infer(c, model_version="1", request_id="r", sequence_id=3, sequence_start=True, sequence_end=True,
                   priority=1, timeout=20_000_000, parameters={"base64_encoded": False, "any": 1.5}, **packed)
    np.testing.assert_array_equal(result.as_numpy("EMBEDDING"), infer(c).as_numpy("EMBEDDING"))


def infer_the_clients_own_way(c):
    """What each client has beside `infer`."""
    inputs = [image_input(c.module, [PNG[0]])]
    if c.is_http:
        body, size = c.method("generate_request_body")(inputs, request_id="r")
        assert body and size
        parsed = c.method("parse_response_body")(b'{"model_name":"m","model_version":"1","outputs":[]}')
        assert parsed.get_response()["model_name"] == "m"
    if c.is_http and not c.is_aio:
        assert c.method("async_infer")("embed_image", inputs).get_result().as_numpy("EMBEDDING").shape == (1, 128)
    if not c.is_http and not c.is_aio:
        answers = queue.Queue()
        c.method("async_infer")("embed_image", inputs, callback=lambda result, error: answers.put((result, error)))
        c.method("start_stream")(callback=lambda result, error: answers.put((result, error)))
        c.method("async_stream_infer")("embed_image", inputs, enable_empty_final_response=True)
        for _ in range(2):
            result, error = answers.get(timeout=20)
            assert error is None and result.as_numpy("EMBEDDING").shape == (1, 128)
        c.method("stop_stream")()
    if not c.is_http and c.is_aio:
        async def requests():
            for i in range(3):
                yield {"model_name": "embed_image", "inputs": inputs, "request_id": str(i)}

        async def stream():
            return [(result.get_response().id, error) async for result, error in c.method("stream_infer")(requests())]
        assert c.wait(stream()) == [("0", None), ("1", None), ("2", None)]


def register_a_plugin(c):
    c.method("register_plugin")((HttpAuth if c.is_http else GrpcAuth)("user", "password"))
    assert c.method("plugin")() is not None and c.call("is_server_live")
    c.method("unregister_plugin")()


def test_every_method(client):
    for part in (read_everything, change_settings, control_models, share_memory, infer_with_everything,
                 infer_the_clients_own_way, register_a_plugin):
        part(client)
    client.method("close")
    assert not client.left_out()
