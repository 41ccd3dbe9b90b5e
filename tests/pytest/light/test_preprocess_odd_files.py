"""src/image against live Pillow on files that no encoder writes by itself: every PNG filter, depth and interlacing by
hand, GIF and WebP frames off their place, odd sample limits, junk around the file. SIGLIP_SEED draws other ones."""
import os
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image

from test_preprocess_differential import check, photo, save

pytestmark = pytest.mark.filterwarnings("ignore")
SEED = int(os.environ.get("SIGLIP_SEED", "1"))
SIZES = [(1, 1), (2, 9), (9, 2), (33, 17), (8, 8), (5, 70), (1, 400), (400, 1), (96, 113)]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


@pytest.fixture(name="rng")
def rng_fixture():
    return np.random.default_rng(SEED)


def bytes_of(rng, count, limit=256):
    return rng.integers(0, limit, count, dtype=np.uint8).tobytes()


def chunk(tag, data):
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))


def png_rows(rng, width, height, bits_per_pixel, interlaced):
    rows = b""
    for x, y, dx, dy in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, lines = (width - x + dx - 1) // dx, (height - y + dy - 1) // dy
        if columns > 0:
            for _ in range(lines):
                rows += bytes_of(rng, 1, 5) + bytes_of(rng, (columns * bits_per_pixel + 7) // 8)
    return rows


def png(rng, width, height, depth, colour, interlaced):
    extra = b""
    if colour == 3:
        entries = int(rng.integers(1, 2**depth + 1))
        extra = chunk(b"PLTE", bytes_of(rng, 3 * entries))
        if rng.integers(2):
            extra += chunk(b"tRNS", bytes_of(rng, int(rng.integers(1, entries + 1))))
    elif colour in (0, 2) and rng.integers(2):
        extra = chunk(b"tRNS", bytes_of(rng, 2 * CHANNELS[colour]))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    rows = png_rows(rng, width, height, depth * CHANNELS[colour], interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def test_every_png_type_depth_filter_and_interlacing(rng, tmp_path):
    files = {f"{colour} {depth} {interlaced} {w}x{h}": png(rng, w, h, depth, colour, interlaced)
             for colour, depths in DEPTHS.items() for depth in depths for interlaced in (0, 1) for w, h in SIZES}
    assert check(files, tmp_path) == len(files)


def test_gif_frames_off_their_place(rng, tmp_path):
    files = {}
    for w, h in SIZES:
        frames = [Image.fromarray(photo(w, h, 3, SEED + i)).quantize(int(rng.integers(2, 200))) for i in range(3)]
        for disposal in range(4):
            files[f"animated {disposal} {w}x{h}"] = save(frames[0], "GIF", save_all=True, append_images=frames[1:],
                                                         disposal=disposal, transparency=int(rng.integers(2)))
        plain = save(frames[0], "GIF")
        at = plain.index(b",", 13 + 3 * (2 << (plain[10] & 7)))  # the image descriptor
        for screen, place, background in [((w + 7, h + 5), (3, 4), 0), ((w, h), (200, 100), 0), ((w, h), (0, 0), 7)]:
            moved = bytearray(plain)
            struct.pack_into("<HH", moved, 6, *screen)
            moved[11] = background
            struct.pack_into("<HH", moved, at + 1, *place)
            files[f"{screen} {place} {background} {w}x{h}"] = bytes(moved)
    assert check(files, tmp_path) == len(files)


def riff(tag, data):
    return tag + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def u24(value):
    return struct.pack("<I", value)[:3]


def test_webp_frames_off_their_place(tmp_path):
    files = {}
    for w, h in SIZES:
        for lossless in (True, False):
            frame = save(Image.fromarray(photo(w, h, 4, SEED), "RGBA"), "WEBP", lossless=lossless)[12:]
            if frame[:4] == b"VP8X":
                frame = frame[18:]
            for x, y in [(0, 0), (4, 6), (20, 0)]:
                for flags in range(4):  # dispose, blend
                    canvas = u24(w + x + 2) + u24(h + y)
                    body = (b"WEBP" + riff(b"VP8X", b"\x12\0\0\0" + canvas)
                            + riff(b"ANIM", bytes([10, 20, 30, 255, 0, 0]))
                            + riff(b"ANMF", u24(x // 2) + u24(y // 2) + u24(w - 1) + u24(h - 1) + u24(100)
                                   + bytes([flags]) + frame))
                    files[f"{lossless} {x},{y} {flags} {w}x{h}"] = riff(b"RIFF", body)
    assert check(files, tmp_path) == len(files)


def test_pnm_of_every_sample_limit(rng, tmp_path):
    files = {}
    for w, h in SIZES:
        for limit in (1, 2, 100, 255, 256, 1000, 65535):
            for channels, binary, plain in [(3, b"P6", b"P3"), (1, b"P5", b"P2")]:
                samples = rng.integers(0, limit + 1, w * h * channels)
                head = b" # comment\n%d %d\n%d\n" % (w, h, limit)
                files[f"{binary} {limit} {w}x{h}"] = (
                    binary + head + samples.astype(">u2" if limit > 255 else np.uint8).tobytes())
                files[f"{plain} {limit} {w}x{h}"] = plain + head + b" ".join(b"%d" % s for s in samples)
    assert check(files, tmp_path) == len(files)


def test_one_bit_tiff_of_every_compression_and_polarity(tmp_path):
    files = {}
    for w, h in SIZES:
        image = Image.fromarray(photo(w, h, 3, SEED)).convert("1")
        for compression in (None, "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw", "tiff_adobe_deflate"):
            for polarity in (0, 1):
                for fill_order in (1, 2):
                    files[f"{compression} {polarity} {fill_order} {w}x{h}"] = save(
                        image, "TIFF", compression=compression, tiffinfo={262: polarity, 266: fill_order})
    assert check(files, tmp_path) > 0.9 * len(files)


def test_arithmetic_coding_behind_long_segments(tmp_path):
    """Pillow hands the file over in blocks of 64 KiB; a segment that is skipped may end in another than it begins in."""
    if shutil.which("cjpeg") is None:
        pytest.skip("SIGLIP_TEST_SKIPPED: cjpeg is not installed")
    files = {}
    source = save(Image.fromarray(photo(120, 90, 3, SEED)), "PPM")
    for options in ([], ["-arithmetic"], ["-arithmetic", "-progressive"]):
        coded = subprocess.run(["cjpeg", "-quality", "70", *options], input=source, stdout=subprocess.PIPE, check=True).stdout
        for count, size in [(1, 65533), (1, 65000), (1, 60000), (2, 40000), (3, 65533), (5, 65533)]:
            for marker in (0xE1, 0xE5, 0xFE):
                segment = b"\xff" + bytes([marker]) + struct.pack(">H", size + 2) + b"\xff\xd8\xff\xc0\x12" * (size // 5) + bytes(size % 5)
                files[f"{options} {count} of {size} {marker:x}"] = coded[:2] + segment * count + coded[2:]
    assert check(files, tmp_path) > 0.8 * len(files)


def test_cmyk_and_junk_around_files(tmp_path):
    files = {}
    for w, h in SIZES:
        cmyk, rgb = Image.fromarray(photo(w, h, 4, SEED), "CMYK"), Image.fromarray(photo(w, h, 3, SEED))
        for options in [{"progressive": True}, {"optimize": True, "quality": 95}, {"restart_marker_rows": 1}]:
            files[f"cmyk {options} {w}x{h}"] = save(cmyk, "JPEG", **options)
        files[f"keep rgb {w}x{h}"] = save(rgb, "JPEG", keep_rgb=True)
        frames = [Image.fromarray(photo(w, h, 3, SEED + i)) for i in (1, 2)]
        for default_image in (True, False):
            files[f"apng {default_image} {w}x{h}"] = save(rgb, "PNG", save_all=True, append_images=frames,
                                                          default_image=default_image)
        for format in ("PNG", "GIF", "JPEG", "BMP", "WEBP", "TIFF"):
            files[f"{format} and junk {w}x{h}"] = save(rgb, format) + b"junk" * 9
            files[f"junk and {format} {w}x{h}"] = b"\n" + save(rgb, format)
    assert check(files, tmp_path) == len(files) - 6 * len(SIZES)
