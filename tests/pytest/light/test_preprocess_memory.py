"""What src/image claims of a hostile file from its header, and what decoding it really takes: the peak of a fresh
siglip_preprocess_dump for each file."""
import re
import struct
import subprocess
import zlib

import pytest

from test_preprocess_differential import TOOL, photo, save
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore")
NOT_CLAIMED = 8 << 20  # the answer's bytes, stdio, arenas of malloc


class Tool:
    def __enter__(self):
        self.process = subprocess.Popen([TOOL], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def ask(self, what, path):
        """None if it is refused."""
        self.process.stdin.write(f"{what}\t64\t3\t13\t{path}\n".encode())
        self.process.stdin.flush()
        fields = self.process.stdout.readline().split(b"\t")
        return self.process.stdout.read(int(fields[4])) if fields[0] == b"ok" else None

    def peak(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return int(re.search(r"VmHWM:\s*(\d+) kB", status.read())[1]) << 10


def segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def codestream(side, tile, components=1, layers=1, precincts=b"", tile_parts=1):
    """JPEG 2000 without data."""
    size = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, tile, tile, 0, 0, components)
    style = bytes([bool(precincts), 0]) + struct.pack(">H", layers) + bytes([0, max(len(precincts) - 1, 0), 0, 0, 0, 1])
    head = (b"\xff\x4f" + segment(0x51, size + b"\7\1\1" * components) + segment(0x52, style + precincts)
            + segment(0x5c, b"\x40" + b"\x40" * (1 + 3 * max(len(precincts) - 1, 0))))
    part = b"".join(b"\xff\x90" + struct.pack(">HHIBB", 10, i, 15, 0, 1) + b"\xff\x93\0" for i in range(tile_parts))
    return head + part + b"\xff\xd9"


def tiff(tags, rest=b""):
    entries = [tag if len(tag) == 4 else (tag[0], 4, 1, tag[1]) for tag in tags]
    return (b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
            + bytes(4) + rest)


def tiled_tiff(side, data):
    start = 14 + 12 * 9
    return tiff([(256, 1), (257, 1), (258, 8), (259, 8), (262, 1), (322, side), (323, side), (324, start),
                 (325, len(data))], data)


def offsets_tiff(count):
    start = 14 + 12 * 8
    return tiff([(256, 1), (257, 2), (258, 8), (259, 1), (262, 1), (273, 3, count, start), (277, 1), (278, 1)],
                struct.pack("<H", 8) * count)


def behind_a_free_box(stream):
    box = save(Image.fromarray(photo(64, 64, 1)), "JPEG2000")
    at = box.index(b"jp2c") - 4
    return box[:at] + struct.pack(">I", 12) + b"freeabcd" + struct.pack(">I", len(stream) + 8) + b"jp2c" + stream


def avif_of_a_larger_frame():
    data = bytearray(save(Image.new("RGB", (8192, 8192), (10, 200, 30)), "AVIF", speed=10, max_threads=1))
    struct.pack_into(">II", data, data.index(b"ispe") + 8, 16, 16)
    return bytes(data)


FILES = {
    "AVIF, a frame larger than declared": avif_of_a_larger_frame,
    "JPEG 2000, tiles of one pixel": lambda: codestream(255, 1, components=4, tile_parts=255 * 255),
    "JPEG 2000, precincts of one pixel": lambda: codestream(700, 700, precincts=b"\0"),
    "JPEG 2000, precincts of two pixels": lambda: codestream(700, 700, precincts=b"\0\x11\x11"),
    "JPEG 2000, layers": lambda: codestream(300, 300, layers=200, precincts=b"\0"),
    "JPEG 2000, 16,384 components": lambda: behind_a_free_box(codestream(64, 4, components=16384)),
    "TIFF, a large tile": lambda: tiled_tiff(32752, b"nothing"),
    "TIFF, a large tile with data": lambda: tiled_tiff(8192, zlib.compress(bytes(8192 * 8192))),
    "TIFF, many offsets": lambda: offsets_tiff(2_000_000),
}


@pytest.mark.parametrize("name", FILES)
def test_what_decoding_takes_was_claimed(name, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(FILES[name]())
    with Tool() as tool:
        claimed = tool.ask("memory", path)
        before = tool.peak()
        tool.ask("rgb", path)
        taken = tool.peak() - before
    assert taken < int(claimed or 0) + NOT_CLAIMED
