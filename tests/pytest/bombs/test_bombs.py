"""Pictures made to exhaust the server: sizes at Pillow's two limits in each format, headers that promise too much, and
structures that repeat or unpack without end. Refused at once, or decoded within a bound of memory, with the server alive."""

import concurrent.futures
import gzip
import io
import pathlib
import re
import struct
import sys
import time
import urllib.error
import urllib.request
import zlib

import pytest
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from clients_server import load_clients  # noqa: E402

Image.MAX_IMAGE_PIXELS = None
ROOT = pathlib.Path(__file__).resolve().parents[3]
SMALL = (ROOT / "data/demo/examples/seven.png").read_bytes()
WARNS = 89_478_485  # Image.MAX_IMAGE_PIXELS: Pillow warns above it
REFUSES = 178_956_970  # and refuses above twice as much
# The picture itself is 537 MB as RGB; beside it at most the palette's or the codec's own form of it.
WORKER_BYTES = 1 << 30
# Bodies, answers and the bookkeeping of shared memory: the server decodes nothing.
SERVER_BYTES = 300 << 20


class Server:
    def __init__(self, arguments):
        self.urls = load_clients().start_server(arguments)
        self.process = self.urls.process

    def infer(self, body, **headers):
        request = urllib.request.Request(f"http://{self.urls.http}/v2/models/embed_image/infer", data=body, headers={
            "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0",
            **{name.replace("_", "-"): text for name, text in headers.items()}})
        begin = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                return response.status, response.read(), time.monotonic() - begin
        except urllib.error.HTTPError as error:
            return error.code, error.read(), time.monotonic() - begin

    def pids(self):
        return [self.process.pid, *(int(child) for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
                                    for child in (task / "children").read_text().split())]

    def resident(self, key="VmRSS"):
        """Bytes of the server, and of each of its workers."""
        found = {}
        for pid in self.pids():
            try:
                text = pathlib.Path(f"/proc/{pid}/status").read_text()
            except FileNotFoundError:
                continue
            found[pid] = int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) * 1024
        return found

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=40) == 0


@pytest.fixture(name="server")
def server_fixture():
    server = Server(["--decode-workers", "2", "--http-max-input-size", str(1 << 30)])
    yield server
    server.stop()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, extra=b""):
    packer = zlib.compressobj(1)
    row = bytes((width + 7) // 8 + 1)  # of one bit a pixel
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)) + extra
            + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


def by_pillow(file_format, mode="1", **options):
    def make(width, height):
        file = io.BytesIO()
        Image.new(mode, (width, height)).save(file, file_format, **options)
        return file.getvalue()
    return make


def pgm(width, height):
    return b"P4 %d %d\n" % (width, height) + bytes((width + 7) // 8 * height)


FORMATS = {
    "png": png,
    "jpeg": by_pillow("JPEG", "L", quality=30),
    "progressive jpeg": by_pillow("JPEG", "L", quality=30, progressive=True),
    "gif": by_pillow("GIF", "L"),
    "bmp": by_pillow("BMP"),
    "tiff": by_pillow("TIFF", compression="group4"),
    "pbm": pgm,
    "webp": by_pillow("WEBP", "RGB", lossless=True, quality=0, method=0),
}
# Sides within what every format can say: 16,383 for WebP.
SIZES = {89_400_000: (14_900, 6_000), 89_500_000: (14_320, 6_250), 178_900_000: (14_312, 12_500),
         179_000_000: (14_320, 12_500)}


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_at_pillows_limits(server, name):
    for pixels, (width, height) in SIZES.items():
        assert width * height == pixels and (pixels > REFUSES) == (pixels == 179_000_000)
        assert (pixels > WARNS) == (pixels >= 89_500_000)
        status, body, seconds = server.infer(FORMATS[name](width, height))
        if pixels > REFUSES:
            assert status == 400 and b"too large" in body, (name, body)
            assert seconds < 10, "refused by its head"
        else:
            assert status == 200, (name, pixels, body[:200])
    peaks = server.resident("VmHWM")
    print(name, {pid: bytes >> 20 for pid, bytes in peaks.items()}, "MiB")
    assert peaks.pop(server.process.pid) < SERVER_BYTES + (128 << 20), "the bodies of this test are in it"
    assert max(peaks.values()) < WORKER_BYTES


def test_giants_share_the_memory_for_decoding(server):
    """Four at once on two workers: with a budget of 1 GiB each of them runs alone."""
    giant = FORMATS["png"](14_312, 12_500)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.infer, giant) for _ in range(4)]
        peak = 0
        while not all(answer.done() for answer in answers):
            peak = max(peak, sum(server.resident("RssAnon").values()))
            time.sleep(0.01)
    assert [answer.result()[0] for answer in answers] == [200] * 4
    assert peak < WORKER_BYTES + SERVER_BYTES
    assert server.infer(SMALL)[0] == 200


def patched(file_format, pattern, replacement, **options):
    data = by_pillow(file_format, "RGB", **options)(64, 48)
    assert data.count(pattern) >= 1, file_format
    return data.replace(pattern, replacement)


def gif_with_canvas(width, height):
    data = by_pillow("GIF", "L")(4, 4)
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def tiff_with_a_loop():
    """The second directory says that the first comes after it; the first has no picture's size."""
    entry = struct.pack("<HHII", 0x0100, 4, 1, 1)
    first = struct.pack("<H", 1) + entry + struct.pack("<I", 8 + 18)
    second = struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    return b"II*\0" + struct.pack("<I", 8) + first + second


def tiff_with_many_entries():
    entry = struct.pack("<HHII", 0x0132, 2, 0xFFFFFFFF, 8)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 65535) + entry * 65535 + struct.pack("<I", 8)


def jpeg_with_scans(count):
    """A progressive picture whose last scan comes again and again."""
    data = by_pillow("JPEG", "RGB", progressive=True)(2048, 2048)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


REFUSED = {
    "avif": lambda: patched("AVIF", struct.pack(">II", 64, 48), struct.pack(">II", 65535, 65535)),
    "jpeg 2000": lambda: patched("JPEG2000", struct.pack(">II", 64, 48), struct.pack(">II", 65535, 65535)),
    "gif of 65535^2": lambda: gif_with_canvas(65535, 65535),
    "png, zTXt": lambda: png(16, 16, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20), 9))),
    "png, iTXt": lambda: png(16, 16, chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(64 << 20), 9))),
    "jpeg of 1,000 scans": lambda: jpeg_with_scans(1000),
    "tiff whose directories form a loop": tiff_with_a_loop,
    "tiff of 65,535 entries": tiff_with_many_entries,
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_once(server, name):
    status, body, seconds = server.infer(REFUSED[name]())
    assert status == 400, (name, status, body[:200])
    assert seconds < 10, name
    assert max(server.resident("VmHWM").values()) < SERVER_BYTES, name
    assert server.infer(SMALL)[0] == 200


def test_icc_profile_that_unpacks_without_end_is_not_unpacked(server):
    """Pillow keeps profiles of up to 1 MiB and ignores larger ones; this server needs none of them."""
    bomb = png(16, 16, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(256 << 20), 9)))
    status, _, seconds = server.infer(bomb)
    assert status in (200, 400) and seconds < 10
    assert max(server.resident("VmHWM").values()) < SERVER_BYTES


def test_body_that_unpacks_a_thousandfold_ends_at_the_limit(server):
    status, body, seconds = server.infer(gzip.compress(bytes((1 << 30) + 1)), Content_Encoding="gzip")
    assert status in (400, 413), body[:200]
    assert seconds < 60
    assert server.infer(SMALL)[0] == 200


def test_body_within_the_limit_is_a_picture_like_others(server):
    assert server.infer(gzip.compress(SMALL), Content_Encoding="gzip")[0] == 200
