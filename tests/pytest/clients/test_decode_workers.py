"""Decode workers of a running server: what is killed, and when, and who notices."""

import os
import pathlib
import re
import signal
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib

import pytest

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from conftest import start_server
from test_drop_in import running
from test_serving import metrics, value
from test_tritonclient import PNG, image_input


def big_png(side):
    """A grey picture of one colour: small as a file, long to decode."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(side * (side + 1)), 1)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


SLOW = big_png(9000)
ENDLESS = big_png(13300)  # seconds: nearly as large as any picture may be


def infer(urls, picture, model="embed_image"):
    """HTTP status and body of a raw request."""
    request = urllib.request.Request(f"http://{urls.http}/v2/models/{model}/infer", data=picture, headers={
        "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def children(pid):
    return [int(child) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()]


def has_ended(pid):
    status = pathlib.Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill_all(pids):
    """Returns when they have ended, which is a moment after the signal."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    while not all(has_ended(pid) for pid in pids):
        time.sleep(0.001)


def cpu_ticks(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def worker_at_work(urls):
    """The worker that has the slow picture."""
    before = {}
    while True:
        for pid in children(urls.process.pid):
            try:
                ticks = cpu_ticks(pid)
            except FileNotFoundError:
                continue
            if ticks > before.setdefault(pid, ticks) + 2:
                return pid
        time.sleep(0.005)


class InBackground(threading.Thread):
    def __init__(self, function, *arguments):
        super().__init__()
        self.function, self.arguments, self.result = function, arguments, None
        self.start()

    def run(self):
        self.result = self.function(*self.arguments)

    def answer(self):
        self.join(timeout=60)
        return self.result


@pytest.fixture(scope="module")
def two_workers():
    yield from running(["--decode-workers", "2"])


def test_workers_are_what_decodes(two_workers):
    assert len(children(two_workers.process.pid)) == 3, "two, and the one that reads heads"
    before = sum(cpu_ticks(pid) for pid in children(two_workers.process.pid))
    assert infer(two_workers, SLOW)[0] == 200
    assert sum(cpu_ticks(pid) for pid in children(two_workers.process.pid)) > before


def test_killed_worker_costs_its_request_alone(two_workers):
    expected = infer(two_workers, PNG[0])
    slow = InBackground(infer, two_workers, SLOW)
    os.kill(worker_at_work(two_workers), signal.SIGKILL)
    others = [infer(two_workers, PNG[0]) for _ in range(20)]
    status, body = slow.answer()
    assert status == 500 and b"signal 9" in body, (status, body)
    assert others == [expected] * 20
    assert infer(two_workers, SLOW)[0] == 200
    assert value(metrics(two_workers), "siglip_images_rejected_total", reason="decoder_crashed") == 1
    with urllib.request.urlopen(f"http://{two_workers.http}/v2/health/ready") as response:
        assert response.status == 200


def test_workers_killed_at_rest_cost_nothing(two_workers):
    for _ in range(3):
        kill_all(children(two_workers.process.pid))
        assert infer(two_workers, PNG[0])[0] == 200


def test_deadline_ends_the_decoder(two_workers):
    def call():
        client = grpcclient.InferenceServerClient(two_workers.grpc)
        with pytest.raises(InferenceServerException, match="Deadline"):
            client.infer("embed_image", [image_input(grpcclient, [ENDLESS])], client_timeout=0.7)

    calling = InBackground(call)
    worker = worker_at_work(two_workers)
    calling.answer()
    end = time.monotonic() + 20
    while not has_ended(worker):
        assert time.monotonic() < end, "the decoder went on"
        time.sleep(0.02)
    assert infer(two_workers, PNG[0])[0] == 200


def test_damaged_picture_is_refused_as_ever(two_workers):
    status, body = infer(two_workers, PNG[0][:60])
    assert status == 400 and b"PNG" in body


def test_sigterm_for_all_of_them_drains():
    urls = start_server(["--decode-workers", "1"])
    slow = InBackground(infer, urls, SLOW)
    worker_at_work(urls)
    for pid in [*children(urls.process.pid), urls.process.pid]:  # as systemd and a terminal do
        os.kill(pid, signal.SIGTERM)
    assert slow.answer()[0] == 200
    assert urls.process.wait(timeout=40) == 0


def test_no_worker_outlives_its_server():
    urls = start_server(["--decode-workers", "2"])
    workers = children(urls.process.pid)
    slow = InBackground(lambda: pytest.raises(OSError, infer, urls, SLOW))
    worker_at_work(urls)
    urls.process.kill()
    urls.process.wait()
    slow.answer()
    end = time.monotonic() + 20
    while not all(has_ended(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_off_decodes_in_the_server():
    for urls in running(["--decode-workers", "off"]):
        assert children(urls.process.pid) == []
        assert infer(urls, PNG[0])[0] == 200


def test_number_of_workers_is_checked():
    with pytest.raises(RuntimeError, match=re.compile("ended with 2.*decode-workers", re.DOTALL)):
        start_server(["--decode-workers", "0"])
