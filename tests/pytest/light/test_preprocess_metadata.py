"""src/image against live Pillow on metadata: every type of the tags that Pillow computes with, parts of JPEG segments,
text chunks of PNG by the names of Pillow's own notes. None of it is seen in the pixels; much of it refuses the file."""
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from test_preprocess_differential import check, photo, save

pytestmark = pytest.mark.filterwarnings("ignore")
TYPES = range(20)
VALUES = [struct.pack("<II", 1, 8), struct.pack("<II", 72, 1), struct.pack("<II", 72, 0), struct.pack("<II", 3, 1), bytes(8),
          b"\xff" * 8, b"5\0\0\0\0\0\0\0", b"cm\0\0\0\0\0\0", struct.pack("<d", 3.0), struct.pack("<ff", 3.0, 0.0)]


def tiff(tags, width=9, height=7):
    """Grey, one strip; tags: {number: (type, count, bytes)} or None to leave one out."""
    data = np.random.default_rng(width).integers(0, 256, 3 * width * height, np.uint8).tobytes()
    entries = {256: (3, 1, struct.pack("<H", width)), 257: (3, 1, struct.pack("<H", height)), 258: (3, 1, b"\x08"), 259: (3, 1, b"\1"),
               262: (3, 1, b"\1"), 273: (4, 1, b""), 277: (3, 1, b"\1"), 278: (3, 1, struct.pack("<H", height)), 279: (4, 1, b"\x40"), **tags}
    entries = {tag: entry for tag, entry in entries.items() if entry}
    behind = 14 + 12 * len(entries)
    start = behind + sum(len(v) for _, _, v in entries.values() if len(v) > 4)
    if entries.get(273) == (4, 1, b""):
        entries[273] = (4, 1, struct.pack("<I", start))
    directory, rest = b"", b""
    for tag in sorted(entries):
        kind, count, value = entries[tag]
        if len(value) > 4:
            rest += value
            value = struct.pack("<I", behind + len(rest) - len(value))
        directory += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + rest + data


def test_tiff_tags_of_every_type(tmp_path):
    files = {}
    for kind in TYPES:
        for count in (0, 1, 2, 8):
            for value in VALUES:
                value = value if count > 1 or kind in (5, 10, 12, 16) else value[:4]
                for tag in (282, 283, 296, 34665, 34853, 40965, 34675, 305):
                    files[f"tag {tag} type {kind} count {count} {value}"] = tiff({282: (5, 1, VALUES[1]), 296: (3, 1, b"\3"), tag: (kind, count, value)})
                for upright in ({}, {274: (3, 1, b"\1")}, {274: (3, 1, b"\6")}):
                    files[f"xmp type {kind} count {count} {value} {upright}"] = tiff({**upright, 700: (kind, count, value)})
                if kind in (1, 3, 4, 6, 8, 9, 13):
                    files[f"offsets type {kind} count {count} {value}"] = tiff({273: (kind, count, value), 278: (3, 1, b"\3")})
    assert check(files, tmp_path) > 0.3 * len(files)


def test_lists_of_offsets(tmp_path):
    rng = np.random.default_rng(4)
    files = {}
    for i in range(400):
        width, height = (int(v) for v in rng.integers(1, 24, 2))
        count = int(rng.integers(1, 9))
        kind, code, limit = [(4, "I", 500), (3, "H", 500), (9, "i", 500), (8, "h", 400), (1, "B", 256), (6, "b", 128)][i % 6]
        least = -9 if kind in (6, 8, 9) and rng.integers(3) == 0 else 0
        offsets = (kind, count, struct.pack(f"<{count}{code}", *(int(v) for v in rng.integers(least, limit, count))))
        tags = {262: (3, 1, bytes([rng.choice([1, 6])])), 284: (3, 1, bytes([rng.integers(1, 3)]))}
        if rng.integers(2):
            sides = [struct.pack("<H", int(rng.choice([8, 16, side, side + 1]))) for side in (width, height)]
            tags.update({273: None, 324: offsets, 322: (3, 1, sides[0]), 323: (3, 1, sides[1])})
        else:
            tags.update({273: offsets, 278: (3, 1, struct.pack("<H", int(rng.integers(1, height + 2))))})
        files[f"#{i} {width}x{height} {tags}"] = tiff(tags, width, height)
    assert check(files, tmp_path) > 0.3 * len(files)


def segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def test_jpeg_segments_that_are_cut(tmp_path):
    whole = save(Image.fromarray(photo(33, 21)), "JPEG")
    bare = whole[:2] + whole[20:]
    assert whole[2:4] == b"\xff\xe0" and bare[2:4] == b"\xff\xdb"
    files = {}
    for name, marker, body in [("profile", 0xE2, b"ICC_PROFILE\0\1\1abc"), ("photoshop", 0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\0"),
                               ("two blocks", 0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\2ab8BIM\4\5\0\0\0\0\0\0"),
                               ("adobe", 0xEE, b"Adobe\0\x64\0\0\0\0\1"), ("jfif", 0xE0, b"JFIF\0\1\1\1\0\1\0\1\0\0")]:
        for size in range(len(body) + 1):
            files[f"{name} of {size}"] = whole[:2] + segment(marker, body[:size]) + whole[2:]
    for kind in TYPES:
        for count in (0, 1, 2, 4):
            for value in (b"5\0\0\0", bytes(4), b"x\0\0\0", b"51\0\0"):
                for unit in (b"", struct.pack("<HHI", 0x128, 3, 1) + b"\3\0\0\0"):
                    exif = (b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2 if unit else 1) + struct.pack("<HHI", 0x11A, kind, count) + value + unit
                            + bytes(4) + struct.pack("<II", 72, 1))
                    for jfif, base in (("no ", bare), ("", whole)):
                        files[f"{jfif}jfif, resolution type {kind} count {count} {value} {bool(unit)}"] = base[:2] + segment(0xE1, exif) + base[2:]
    assert check(files, tmp_path) > 0.8 * len(files)


def chunk(tag, data):
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))


def test_png_text_and_transparency(tmp_path):
    files = {}
    palette = chunk(b"PLTE", bytes(range(48)))
    keys = [b"interlace", b"transparency", b"bbox", b"default_image", b"gamma", b"exif", b"disposal", b"blend", b"dpi", b"Raw profile type exif"]
    alphas = [b"\0", b"\xff\0", b"\xff\xff", b"\0\0\1", b"\xff\0\n", b"\xff" * 255 + b"\0", b"\xff" * 256 + b"\0", b"\1" * 257, b"", b"\n"]
    for colour, depth, channels in [(0, 8, 1), (0, 4, 1), (0, 1, 1), (0, 16, 1), (2, 8, 3), (3, 8, 1), (4, 8, 2), (6, 8, 4)]:
        rows = b"".join(b"\0" + bytes((7 * y + x) % 256 for x in range((8 * depth * channels + 7) // 8)) for y in range(8))
        extras = [chunk(b"tEXt", key + b"\0" + value) for key in keys for value in (b"", b"abc", b"0000")]
        extras += [chunk(b"zTXt", key + b"\0\0" + zlib.compress(b"x")) for key in keys]
        extras += [chunk(b"iTXt", key + b"\0\0\0\0\0x") for key in keys] + [chunk(b"tRNS", a) for a in alphas]
        for interlaced in (0, 1):
            head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, interlaced))
            data, end = chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
            for extra in extras:
                name = f"{colour} {depth} {interlaced} {extra[4:40]}"
                files[name + " before"] = head + extra + palette + data + end
                files[name + " after"] = head + palette + data + extra + end
                if colour == 3:
                    files[name + " no palette"] = head + extra + data + end
    assert check(files, tmp_path) > 0.3 * len(files)
