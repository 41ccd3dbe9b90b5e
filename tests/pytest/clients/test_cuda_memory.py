"""Tensors in a GPU's memory, with the unchanged tritonclient. The server's driver is a stand-in
(src/serving/fake_cuda_for_test.cc) whose handles name POSIX shared memory; docs/gpu.md has what a real one needs."""

import base64
import os

import numpy as np
import pytest

import tritonclient.http as httpclient
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from conftest import fake_library
from test_drop_in import clients, embed, running
from test_tritonclient import PNG

SIZE = 1 << 16


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", fake_library("serving/fake_cuda"))
    life = running(["--allow-client-shm", "true"])
    yield next(life)
    next(life, None)


@pytest.fixture
def memory():
    """A region of 64 kB with an image at byte 16, and its handle in base64, as cuda_shared_memory.get_raw_handle has it."""
    key = f"/siglip_cuda_test_{os.getpid()}"
    region = shm.create_shared_memory_region("region", key, SIZE)
    data = serialize_byte_tensor(np.array([[PNG[0]]], dtype=object))
    shm.set_shared_memory_region(region, [data], offset=16)
    region.input_bytes = len(data.item())
    region.handle = base64.b64encode(key.encode().ljust(64, b"\0"))
    yield region
    shm.destroy_shared_memory_region(region)


def status(client, module):
    if module is httpclient:
        return client.get_cuda_shared_memory_status()
    regions = client.get_cuda_shared_memory_status(as_json=True).get("regions", {})
    return [{"name": row["name"], "device_id": int(row.get("device_id", 0)), "byte_size": int(row["byte_size"])}
            for row in regions.values()]


def test_tensors_in_gpu_memory(server, memory):
    for client, module in clients(server):
        reference = embed(client, module)
        client.unregister_cuda_shared_memory()
        client.register_cuda_shared_memory("region", memory.handle, 1, SIZE)
        assert status(client, module) == [{"name": "region", "device_id": 1, "byte_size": SIZE}]
        tensor = module.InferInput("INPUT_IMAGE", [1, 1], "BYTES")
        tensor.set_shared_memory("region", memory.input_bytes, offset=16)
        output = module.InferRequestedOutput("EMBEDDING")
        output.set_shared_memory("region", reference.nbytes, offset=32768)
        client.infer("embed_image", [tensor], outputs=[output])
        got = shm.get_contents_as_numpy(memory, np.float32, reference.shape, offset=32768)
        np.testing.assert_array_equal(got, reference)
        shm.set_shared_memory_region(memory, [np.zeros_like(reference)], offset=32768)
        with pytest.raises(InferenceServerException, match="already in manager"):
            client.register_cuda_shared_memory("region", memory.handle, 0, SIZE)
        client.unregister_system_shared_memory()
        assert len(status(client, module)) == 1
        client.unregister_cuda_shared_memory("region")
        assert status(client, module) == []
        with pytest.raises(InferenceServerException, match="Unable to find shared memory region"):
            client.infer("embed_image", [tensor])


def test_hostile_gpu_regions(server, memory):
    for client, _ in clients(server):
        for handle, device, size in [(memory.handle, 0, SIZE + 1), (memory.handle, 2, SIZE), (memory.handle, 0, 0),
                                     (base64.b64encode(b"short"), 0, 16), (base64.b64encode(b"/none".ljust(64, b"\0")), 0, 16)]:
            with pytest.raises(InferenceServerException, match="failed to register"):
                client.register_cuda_shared_memory("bad", handle, device, size)
        assert client.is_server_live()
