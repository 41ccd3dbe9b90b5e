#!/usr/bin/env python3
"""Write tests/data/image: small image files of every kind and what Pillow makes of them.

Usage: make_image_goldens.py OUT_FOLDER       (needs Pillow 13.0.0 and numpy)
manifest.tsv has a row per file: name, format, width, height and the SHA-256 of
  rgb       Image.open(f).convert("RGB")
  bicubic   .resize((SIZE, SIZE), BICUBIC)
  bilinear  .resize((SIZE, SIZE), BILINEAR)
  p12       bicubic, horizontal pass first, as Pillow 12 and older
  pixels    (x/255 - .5)/.5 of `bicubic` as little-endian float32 [3, SIZE, SIZE]
or name, "refused" and Pillow's exception.
"""
import hashlib
import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

SIZE = 32
FILES = {}


def photo(width, height, channels=3, seed=0):
    """Smooth colours with some noise: compresses a little, has no flat parts."""
    rng = np.random.default_rng(seed * 1000 + width * 31 + height)
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 90 * np.sin(x / (3.0 + c) + c) * np.cos(y / (4.0 + c)) for c in range(channels)]
    a = np.stack(planes, -1) + rng.normal(0, 12, (height, width, channels))
    a = np.clip(a, 0, 255).astype(np.uint8)
    return a[..., 0] if channels == 1 else a


def save(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def put(name, image, format, **options):
    FILES[name] = save(image, format, **options)
    return FILES[name]


def png_chunk(kind, body, crc=None):
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(width, height, depth, color, rows, extra=b"", interlace=0, tail=b"", data=None, end=True):
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    if data is None:
        data = zlib.compress(b"".join(b"\0" + r for r in rows), 9)
    body = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + extra + png_chunk(b"IDAT", data) + tail
    return body + (png_chunk(b"IEND", b"") if end else b"")


def png_files():
    rng = np.random.default_rng(7)
    rgb = Image.fromarray(photo(23, 17))
    put("rgb8.png", rgb, "PNG")
    put("rgba8.png", Image.fromarray(photo(20, 13, 4), "RGBA"), "PNG")
    put("la8.png", Image.fromarray(photo(20, 13, 2), "LA"), "PNG")
    put("palette_transparent.png", rgb.quantize(40), "PNG", transparency=3)
    for depth, channels, color in [(1, 1, 0), (2, 1, 0), (4, 1, 0), (8, 1, 0), (16, 1, 0), (16, 3, 2),
                                   (16, 2, 4), (16, 4, 6), (1, 1, 3), (2, 1, 3), (4, 1, 3), (8, 1, 3)]:
        width, height = 19, 11
        row = (width * channels * depth + 7) // 8
        rows = [rng.integers(0, 256, row, np.uint8).tobytes() for _ in range(height)]
        palette = png_chunk(b"PLTE", rng.integers(0, 256, 3 * min(2**depth, 16), np.uint8).tobytes())
        FILES[f"depth{depth}_color{color}.png"] = png(width, height, depth, color, rows,
                                                      palette if color == 3 else b"")
    rows = [rng.integers(0, 256, 30, np.uint8).tobytes() for _ in range(6)]
    FILES["small_values_16.png"] = png(10, 6, 16, 0, [struct.pack(">10H", *range(i * 50, i * 50 + 10)) for i in range(6)])
    FILES["no_palette.png"] = png(10, 6, 8, 3, [r[:10] for r in rows])
    FILES["bad_idat_crc.png"] = png(10, 6, 8, 2, rows)[:-16] + b"\1\2\3\4" + png_chunk(b"IEND", b"")
    FILES["no_end.png"] = png(10, 6, 8, 2, rows, end=False)
    FILES["bad_ancillary_crc.png"] = png(10, 6, 8, 2, rows, png_chunk(b"gAMA", b"\0\0\0\1", 5))
    FILES["short_trns.png"] = png(10, 6, 8, 2, rows, png_chunk(b"tRNS", b"\0\0"))
    FILES["short_data.png"] = png(10, 6, 8, 2, rows[:5])
    FILES["rows_missing_at_border.png"] = png(10, 6, 8, 2, rows[:5])
    FILES["bad_filter.png"] = png(10, 6, 8, 2, [], data=zlib.compress(b"".join(b"\5" + r for r in rows)))
    FILES["bad_adler.png"] = png(10, 6, 8, 2, [], data=zlib.compress(b"".join(b"\0" + r for r in rows))[:-1] + b"\7")
    bomb = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 21), 9))
    FILES["text_bomb.png"] = png(10, 6, 8, 2, rows, bomb)
    FILES["text_bomb_after.png"] = png(10, 6, 8, 2, rows, tail=bomb)
    FILES["unknown_critical.png"] = png(10, 6, 8, 2, rows, png_chunk(b"ABCD", b"xyz"))
    FILES["zero_width.png"] = png(0, 6, 8, 2, rows)
    FILES["bomb.png"] = png(20000, 8948, 8, 2, rows)
    every_filter = []
    for f in range(5):
        every_filter += [bytes([f]) + rng.integers(0, 256, 30, np.uint8).tobytes() for _ in range(3)]
    FILES["filters.png"] = png(10, 15, 8, 2, [], data=zlib.compress(b"".join(every_filter)))
    # Adam7 by hand: the passes' rows one after another.
    for depth, color, channels in [(8, 2, 3), (1, 0, 1), (4, 0, 1), (16, 6, 4)]:
        for w, h in [(13, 9), (1, 1), (3, 5)]:
            data = b""
            for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
                pw, ph = (w - x0 + dx - 1) // dx, (h - y0 + dy - 1) // dy
                if pw > 0 and ph > 0:
                    n = (pw * channels * depth + 7) // 8
                    for i in range(ph):
                        data += bytes([i % 5]) + rng.integers(0, 256, n, np.uint8).tobytes()
            FILES[f"interlaced_d{depth}_c{color}_{w}x{h}.png"] = png(w, h, depth, color, [], interlace=1, data=zlib.compress(data))


def odd_png_files():
    """Text chunks named as Pillow's own notes, transparency without a palette."""
    rng = np.random.default_rng(9)
    rows = [rng.integers(0, 256, 24, np.uint8).tobytes() for _ in range(8)]
    grey = [row[:8] for row in rows]
    data = zlib.compress(b"".join(b"\0" + row for row in grey), 9)
    passes = zlib.compress(b"".join(b"\0" + rng.integers(0, 256, n, np.uint8).tobytes() for n in [1, 1, 2, 2, 2, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8]))
    text = lambda key, value=b"abc": png_chunk(b"tEXt", key + b"\0" + value)
    palette = png_chunk(b"PLTE", bytes(range(48)))
    FILES["text_interlace.png"] = png(8, 8, 8, 0, [], text(b"interlace"), data=passes)
    FILES["text_interlace_empty.png"] = png(8, 8, 8, 0, [], text(b"interlace", b""), interlace=1, data=data)
    FILES["text_interlace_compressed.png"] = png(8, 8, 8, 0, [], png_chunk(b"zTXt", b"interlace\0\0" + zlib.compress(b"x")), data=passes)
    FILES["text_interlace_utf8.png"] = png(8, 8, 8, 0, [], png_chunk(b"iTXt", b"interlace\0\0\0\0\0x"), data=passes)
    FILES["text_interlace_after.png"] = png(8, 8, 8, 0, [], data=data, tail=text(b"interlace"))
    FILES["text_box.png"] = png(8, 8, 8, 0, [], text(b"bbox"), data=data)
    frame = lambda n: png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", n, 8, 8, 0, 0, 1, 1, 0, 0))
    animation = png_chunk(b"acTL", struct.pack(">II", 1, 0))
    FILES["text_box_and_frame.png"] = png(8, 8, 8, 0, [], text(b"bbox") + animation + frame(0), data=data)
    # With a default image of its own a picture of one frame has two: what follows the next frame's head is not read.
    broken = frame(1) + png_chunk(b"gAMA", b"")
    FILES["text_default_image.png"] = png(8, 8, 8, 0, [], text(b"default_image") + animation + frame(0), data=data, tail=broken)
    FILES["no_default_image.png"] = png(8, 8, 8, 0, [], animation + frame(0), data=data, tail=broken)
    for name, color, depth in [("grey", 0, 8), ("palette", 3, 8), ("rgb", 2, 8), ("bilevel", 0, 1), ("grey16", 0, 16)]:
        kind = rows if color == 2 else [row[:1] if depth == 1 else row[:2 * depth if depth == 16 else 8][:16] for row in rows]
        FILES[f"text_transparency_{name}.png"] = png(8, 8, depth, color, kind, palette if color == 3 else b"", tail=text(b"transparency"))
    FILES["text_transparency_then_trns.png"] = png(8, 8, 8, 0, grey, text(b"transparency") + png_chunk(b"tRNS", b"\0\7"))
    for name, alphas in [("one", b"\xff\xff\0\xff"), ("line_feed", b"\0\n"), ("two", b"\0\0"), ("none", b"\xff\xff")]:
        FILES[f"clear_entry_{name}_no_palette.png"] = png(8, 8, 8, 3, grey, png_chunk(b"tRNS", alphas))
    FILES["clear_entry_after_no_palette.png"] = png(8, 8, 8, 3, grey, tail=png_chunk(b"tRNS", b"\0"))
    FILES["clear_entry_one.png"] = png(8, 8, 8, 3, grey, palette + png_chunk(b"tRNS", b"\xff\0"))


def jpeg_files():
    rgb = Image.fromarray(photo(45, 33))
    for s in range(3):
        put(f"s{s}.jpg", rgb, "JPEG", quality=85, subsampling=s)
    whole = put("progressive.jpg", rgb, "JPEG", quality=85, progressive=True)
    FILES["progressive_no_eoi.jpg"] = whole[:-2]
    put("grey.jpg", rgb.convert("L"), "JPEG")
    put("cmyk.jpg", Image.fromarray(photo(21, 15, 4), "CMYK"), "JPEG")
    put("one_pixel.jpg", rgb.crop((0, 0, 1, 1)), "JPEG")
    put("wide.jpg", rgb.crop((0, 0, 45, 1)), "JPEG")
    put("tall.jpg", Image.fromarray(photo(9, 150)), "JPEG")
    restart = put("restart.jpg", rgb, "JPEG", restart_marker_blocks=2)
    FILES["restart_cut.jpg"] = restart[: len(restart) * 2 // 3]
    exif = Image.Exif()
    exif[0x0112] = 6
    put("exif_rotated.jpg", rgb, "JPEG", exif=exif)
    baseline = FILES["s2.jpg"]
    FILES["junk_after.jpg"] = baseline + b"junk"
    FILES["junk_before.jpg"] = b"junk" + baseline
    FILES["broken_end.jpg"] = baseline[:-2] + b"\xff\xc4\0\5\0\0\0\xff\xd9"
    FILES["missing_end.jpg"] = baseline[:-2]
    FILES["two_components.jpg"] = baseline.replace(b"\xff\xc0\x00\x11\x08\x00\x21\x00\x2d\x03", b"\xff\xc0\x00\x11\x08\x00\x21\x00\x2d\x02")
    FILES["twelve_bit.jpg"] = baseline.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")


def cut_progressive_jpeg_files():
    """Files whose last scans are missing: libjpeg-turbo estimates what these would have held."""
    for name, size, subsampling in [("narrow", (12, 40), 0), ("low", (40, 12), 2), ("subsampled", (40, 70), 2), ("half_subsampled", (40, 33), 1)]:
        whole = save(Image.fromarray(photo(*size)), "JPEG", quality=60, subsampling=subsampling, progressive=True, restart_marker_blocks=2)
        scans = whole.split(b"\xff\xda")
        for kept in (1, 4):
            FILES[f"progressive_{name}_{kept}.jpg"] = b"\xff\xda".join(scans[: kept + 1]) + b"\xff\xd9"
        # The last scan ends within its second row of blocks.
        FILES[f"progressive_{name}_cut.jpg"] = b"\xff\xda".join(scans[:3]) + b"\xff\xda" + scans[3][: len(scans[3]) // 2] + b"\xff\xd9"


def lossless_jpeg(planes, predictor, shift=0, rows_per_interval=0, adobe=None):
    """A lossless JPEG (SOF3) of planes of which the first is the largest; 5 bits for each size of a difference."""
    height, width = planes[0].shape
    factors = [(width // p.shape[1], height // p.shape[0]) for p in planes]  # what the first has more
    h, v = max(f[0] for f in factors), max(f[1] for f in factors)
    planes = [p.astype(int) >> shift for p in planes]
    bits, data, first, rows = "", b"", 0, height // v

    def difference(p, x, y, top):
        if x == 0:
            prediction = 1 << (7 - shift) if y == top else p[y - 1, 0]
        else:
            a = p[y, x - 1]
            b, c = (p[y - 1, x], p[y - 1, x - 1]) if y > top else (0, 0)
            prediction = [a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1][predictor - 1 if y > top else 0]
        d = int(p[y, x] - prediction)
        size = abs(d).bit_length()
        return f"{size:05b}" + (f"{d if d > 0 else d + (1 << size) - 1:0{size}b}" if size else "")

    def packed(bits):
        bits += "1" * (-len(bits) % 8)
        return int(bits or "0", 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    for row in range(rows):
        if rows_per_interval and row and row % rows_per_interval == 0:
            data += packed(bits) + bytes([0xFF, 0xD0 + (row // rows_per_interval - 1) % 8])
            bits, first = "", row
        for mcu in range(width // h):
            for p, (fx, fy) in zip(planes, factors):
                n, m = h // fx, v // fy
                bits += "".join(difference(p, mcu * n + x, row * m + y, first * m) for y in range(m) for x in range(n))
    data += packed(bits)
    frame = struct.pack(">BHHB", 8, height, width, len(planes)) + b"".join(bytes([i + 1, (h // fx) << 4 | v // fy, 0]) for i, (fx, fy) in enumerate(factors))
    tables = bytes([0] + [0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))
    head = b"\xff\xd8" + (jpeg_segment(0xEE, b"Adobe\0d\0\0\0\0" + bytes([adobe])) if adobe is not None else b"")
    head += jpeg_segment(0xC3, frame) + jpeg_segment(0xC4, tables)
    if rows_per_interval:
        head += jpeg_segment(0xDD, struct.pack(">H", rows_per_interval * (width // h)))
    scan = bytes([len(planes)]) + b"".join(bytes([i + 1, 0]) for i in range(len(planes))) + bytes([predictor, 0, shift])
    return head + jpeg_segment(0xDA, scan) + data + b"\xff\xd9"


def lossless_jpeg_files():
    rgb = [photo(16, 12)[..., c] for c in range(3)]
    for predictor in range(1, 8):
        FILES[f"lossless_{predictor}.jpg"] = lossless_jpeg(rgb, predictor, rows_per_interval=5 * (predictor % 2))
    FILES["lossless_grey_shifted.jpg"] = lossless_jpeg(rgb[:1], 4, shift=3)
    FILES["lossless_cmyk.jpg"] = lossless_jpeg([photo(16, 12, 4)[..., c] for c in range(4)], 7)
    whole = FILES["lossless_subsampled.jpg"] = lossless_jpeg([rgb[0], rgb[1][::2, ::2], rgb[2][::2, :]], 5, rows_per_interval=2)
    FILES["lossless_ycbcr.jpg"] = lossless_jpeg(rgb, 1, adobe=1)
    FILES["lossless_cut.jpg"] = whole[: len(whole) * 2 // 3]
    FILES["lossless_cut_with_end.jpg"] = whole[: len(whole) * 2 // 3] + b"\xff\xd9"
    FILES["lossless_no_restart.jpg"] = whole.replace(b"\xff\xd1", b"")
    FILES["lossless_wrong_restart.jpg"] = whole.replace(b"\xff\xd1", b"\xff\xd3")


def exif(*entries):
    """An Exif segment of one directory: (tag, type, count, 4 bytes of value or offset)."""
    body = b"".join(struct.pack("<HHI", *e[:3]) + e[3].ljust(4, b"\0") for e in entries)
    return jpeg_segment(0xE1, b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4))


def jpeg_segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def odd_jpeg_files():
    """Segments that make Pillow's plugin fail, and their neighbours that do not."""
    whole = FILES["grey.jpg"]
    FILES["second_frame_cut.jpg"] = whole[:-2] + b"\xff\xc0"
    FILES["second_table_cut.jpg"] = whole[:-2] + b"\xff\xdb"
    frame = whole.index(b"\xff\xc0")
    profile = lambda body: jpeg_segment(0xE2, b"ICC_PROFILE\0" + body)
    for name, extra in [("profile_empty", profile(b"")), ("profile_cut", profile(b"\1\2ab") + profile(b"\1")), ("profile_short", profile(b"\1\1"))]:
        FILES[f"{name}.jpg"] = whole[:2] + extra + whole[2:]
    FILES["profile_after_frame.jpg"] = whole[:frame + 13] + profile(b"") + whole[frame + 13:]
    for size in (5, 6, 7):
        FILES[f"photoshop_cut{size}.jpg"] = whole[:2] + jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0"[:size]) + whole[2:]
    block = b"8BIM\4\4\0\0" + struct.pack(">I", 1) + b"a\0"
    FILES["photoshop_second_cut.jpg"] = whole[:2] + jpeg_segment(0xED, b"Photoshop 3.0\0" + block + b"8BIM\4\5") + whole[2:]
    resolution = b"8BIM\3\xed\0\0" + struct.pack(">I", 4) + bytes(4)
    FILES["photoshop_resolution_cut.jpg"] = whole[:2] + jpeg_segment(0xED, b"Photoshop 3.0\0" + resolution + b"8BIM\4\5") + whole[2:]
    assert whole[2:4] == b"\xff\xe0" and whole[13] == 0  # JFIF without a unit
    unit = (0x128, 3, 1, b"\2\0")
    for name, entries in [("byte", [(0x11A, 1, 1, b"5"), unit]), ("two_bytes", [(0x11A, 1, 2, b"51"), unit]), ("digit", [(0x11A, 2, 2, b"5\0"), unit]),
                          ("letter", [(0x11A, 2, 2, b"x\0"), unit]), ("no_text", [(0x11A, 2, 1, b"\0"), unit]), ("no_unit", [(0x11A, 1, 1, b"5")])]:
        FILES[f"resolution_{name}.jpg"] = whole[:2] + exif(*entries) + whole[2:]
    FILES["resolution_byte_and_jfif.jpg"] = whole[:13] + b"\1" + whole[14:20] + exif((0x11A, 1, 1, b"5"), unit) + whole[20:]
    halves = exif((0x11A, 1, 1, b"5"), unit)[4:]
    FILES["resolution_in_two_segments.jpg"] = whole[:2] + jpeg_segment(0xE1, halves[:20]) + jpeg_segment(0xE1, halves[:6] + halves[20:]) + whole[2:]


def gif_files():
    rgb = Image.fromarray(photo(37, 29))
    p = rgb.quantize(30)
    put("plain.gif", p, "GIF")
    put("interlaced.gif", p, "GIF", interlace=1)
    whole = put("transparent.gif", p, "GIF", transparency=5)
    put("grey.gif", rgb.convert("L"), "GIF")
    frames = [Image.fromarray(photo(20, 18, seed=i)).quantize(16) for i in range(3)]
    put("animated.gif", frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    data = FILES["plain.gif"]
    FILES["cut.gif"] = data[: len(data) * 3 // 4]
    FILES["no_trailer.gif"] = data[:-1]
    # A canvas larger than the frame, the frame off its corner, with and without a transparent index.
    at = data.index(b",\0\0\0\0" + struct.pack("<HH", 37, 29))
    moved = data[:6] + struct.pack("<HH", 50, 40) + data[10:at + 1] + struct.pack("<HH", 7, 5) + data[at + 5:]
    FILES["offset.gif"] = moved
    FILES["offset_transparent.gif"] = moved[:at] + b"!\xf9\4\1\0\0\3\0" + moved[at:]
    FILES["frame_past_screen.gif"] = data[:6] + struct.pack("<HH", 10, 10) + data[10:]
    identity = bytes(i for k in range(256) for i in (k, k, k))
    lzw = data[at + 10:]
    frame = lambda flags: b"," + struct.pack("<HHHH", 0, 0, 37, 29) + bytes([flags])
    colored = bytes((i * 7) % 256 for i in range(768))
    grey_gif = FILES["grey.gif"]
    head = lambda flags: b"GIF89a" + struct.pack("<HH", 37, 29) + bytes([flags, 0, 0])
    pixels = grey_gif[grey_gif.index(b",\0\0\0\0" + struct.pack("<HH", 37, 29)) + 10:]
    FILES["identity_global.gif"] = head(0xF7) + identity + frame(0) + pixels
    FILES["identity_local_over_colored.gif"] = head(0xF7) + colored + frame(0x87) + identity + pixels
    FILES["colored_local_over_identity.gif"] = head(0xF7) + identity + frame(0x87) + colored + pixels
    FILES["no_palette.gif"] = head(0) + frame(0) + pixels
    FILES["zero_frame.gif"] = head(0) + b"," + struct.pack("<HHHH", 0, 0, 0, 29) + b"\0" + pixels
    FILES["short_palette.gif"] = head(0x81) + colored[:12] + frame(0) + pixels


def bmp(width, height, bits, data, compression=0, palette=b"", colors=0, header=b"", size=40):
    info = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(data), 0, 0, colors, 0) + header
    offset = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + palette + data


def bmp_files():
    rng = np.random.default_rng(11)
    rgb = Image.fromarray(photo(21, 14))
    put("rgb.bmp", rgb, "BMP")
    put("palette.bmp", rgb.quantize(50), "BMP")
    put("grey.bmp", rgb.convert("L"), "BMP")
    put("bilevel.bmp", rgb.convert("1"), "BMP")
    put("rgba.bmp", Image.fromarray(photo(21, 14, 4), "RGBA"), "BMP")
    noise = lambda n: rng.integers(0, 256, n, np.uint8).tobytes()
    entries = noise(64)
    FILES["four_bits.bmp"] = bmp(13, 7, 4, noise(8 * 7), palette=entries, colors=16)
    FILES["one_bit_colored.bmp"] = bmp(13, 7, 1, noise(4 * 7), palette=entries[:8], colors=2)
    FILES["short_palette.bmp"] = bmp(13, 7, 8, noise(16 * 7), palette=entries, colors=16)
    FILES["x555.bmp"] = bmp(13, 7, 16, noise(28 * 7))
    FILES["x565.bmp"] = bmp(13, 7, 16, noise(28 * 7), 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F))
    FILES["x8888.bmp"] = bmp(13, 7, 32, noise(52 * 7))
    FILES["argb_fields.bmp"] = bmp(13, 7, 32, noise(52 * 7), 3, size=56, header=struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    FILES["odd_fields.bmp"] = bmp(13, 7, 32, noise(52 * 7), 3, struct.pack("<III", 0xFF0, 0xFF00, 0xFF))
    FILES["top_down.bmp"] = bmp(13, -7, 24, noise(40 * 7))
    FILES["no_last_padding.bmp"] = bmp(13, 7, 24, noise(40 * 6 + 39))
    FILES["cut.bmp"] = bmp(13, 7, 24, noise(40 * 6 + 38))
    FILES["core_header.bmp"] = b"BM" + struct.pack("<IHHI", 0, 0, 0, 26) + struct.pack("<IHHHH", 12, 13, 7, 1, 24) + noise(40 * 7)
    rle = b"\5\1\0\4\2\3\4\5\4\7\0\0" + b"\x0d\2\0\0" + b"\0\2\3\1\3\4\0\0" + b"\x20\1\0\0" + b"\0\3\1\2\3\0\0\0\0\1"
    FILES["rle8.bmp"] = bmp(13, 6, 8, rle, 1, entries, 16)
    FILES["rle4.bmp"] = bmp(13, 6, 4, rle, 2, entries, 16)
    full = b"".join(b"\x0d" + bytes([i]) + b"\0\0" for i in range(6)) + b"\0\1"
    FILES["rle8_full.bmp"] = bmp(13, 6, 8, full, 1, entries, 16)
    FILES["rle4_full.bmp"] = bmp(13, 6, 4, full, 2, entries, 16)


def pnm_files():
    rng = np.random.default_rng(5)
    noise = lambda n: rng.integers(0, 256, n, np.uint8).tobytes()
    FILES["p1.pbm"] = b"P1\n# comment\n4 3\n1 0 1 0\n0110#c\n1001"
    FILES["p4.pbm"] = b"P4 13 5\n" + noise(10)
    FILES["p2.pgm"] = b"P2 3 2 15\n0 1 2 15 7 #x\n8\n"
    FILES["p2_wide.pgm"] = b"P2 3 2 1000\n0 1 2 3 4 1000\n"
    FILES["p3.ppm"] = b"P3 2 2 255\n" + b" ".join(b"%d" % i for i in range(0, 240, 20))
    FILES["p5.pgm"] = b"P5\n9 8\n255\n" + noise(72)
    FILES["p5_100.pgm"] = b"P5\n9 8\n100\n" + noise(72)
    FILES["p5_65535.pgm"] = b"P5 9 8 65535\n" + b"\0" + noise(143)
    FILES["p5_small16.pgm"] = b"P5 9 8 65535\n" + struct.pack(">72H", *range(220, 292))
    FILES["p5_1000.pgm"] = b"P5 9 8 1000\n" + struct.pack(">72H", *range(0, 72))
    FILES["p6.ppm"] = b"P6 # size\n9 8 255\n" + noise(216)
    FILES["p6_65535.ppm"] = b"P6 9 8 65535\n" + noise(432)
    FILES["p6_7.ppm"] = b"P6 9 8 7\n" + noise(216)
    FILES["pf.pfm"] = b"Pf 5 4 -1.0\n" + np.array([-3, 0, .9, 1, 254.9, 255, 300, np.nan, np.inf, -np.inf] * 2, "<f4").tobytes()
    FILES["pf_big.pfm"] = b"Pf 5 4 1.0\n" + np.linspace(-10, 300, 20).astype(">f4").tobytes()
    for name, scale in [("underscore", b"-1_0.5"), ("underscores", b"1__0"), ("last_underscore", b"1_"), ("hexadecimal", b"0x10")]:
        FILES[f"pf_{name}.pfm"] = b"Pf 2 2 " + scale + b"\n" + np.array([1, 2, 300, 4], "<f4").tobytes()
    FILES["cmyk.ppm"] = b"PyCMYK 5 4 255\n" + noise(80)
    FILES["cut.ppm"] = b"P6 9 8 255\n" + noise(215)
    FILES["zero_max.pgm"] = b"P5 9 8 0\n" + noise(72)
    FILES["bad_bit.pbm"] = b"P1 4 1\n1 0 2 0"
    FILES["too_large.pgm"] = b"P2 2 1 9\n3 10\n"
    FILES["long_token.pgm"] = b"P2 2 1 9\n3 00000000001\n"


def webp_files():
    rgb = Image.fromarray(photo(33, 27))
    put("lossy.webp", rgb, "WEBP", quality=80)
    put("lossless.webp", rgb, "WEBP", lossless=True)
    rgba = Image.fromarray(photo(33, 27, 4), "RGBA")
    put("alpha.webp", rgba, "WEBP", quality=80)
    whole = put("alpha_lossless.webp", rgba, "WEBP", lossless=True, exact=True)
    frames = [Image.fromarray(photo(20, 18, 4, seed=i), "RGBA") for i in range(3)]
    put("animated.webp", frames[0], "WEBP", save_all=True, append_images=frames[1:], background=(9, 8, 7, 255))
    FILES["cut.webp"] = whole[:-1]
    with_profile = put("profile.webp", rgb, "WEBP", icc_profile=bytes(10))
    for size in (9, 12):
        body = with_profile[20:30][:size].ljust(size + size % 2, b"\0")
        body = b"WEBPVP8X" + struct.pack("<I", size) + body + with_profile[30:]
        FILES[f"head_of_{size}_bytes.webp"] = b"RIFF" + struct.pack("<I", len(body)) + body
    FILES["junk_after.webp"] = FILES["lossy.webp"] + b"junk"


TIFF_FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}


def tiff(width, height, tags, data, big=False, tiles=False, absolute=False):
    """A TIFF of one strip (or the tags' own tiles), data at the end; `absolute`: offsets count from the file's start."""
    e = ">" if big else "<"
    entries = {256: (4, [width]), 257: (4, [height]), 273: (4, [0]), 278: (4, [height]), 279: (4, [len(data)])}
    if tiles:
        entries = {k: entries[k] for k in (256, 257)}
    entries.update({k: (v if isinstance(v, tuple) else (3, v)) for k, v in tags.items()})
    n = len(entries)
    out_of_line = b""
    base = 8 + 2 + 12 * n + 4
    rows = b""
    sizes = [len(v) * struct.calcsize("=" + TIFF_FORMATS[t]) for t, v in entries.values()]
    total = sum(size for size in sizes if size > 4)
    for tag in sorted(entries):
        kind, values = entries[tag]
        if tag in (273, 324) and not absolute:
            values = [v + base + total for v in values]
        packed = struct.pack(f"{e}{len(values)}{TIFF_FORMATS[kind]}", *values)
        if len(packed) > 4:
            where = base + len(out_of_line)
            out_of_line += packed
            packed = struct.pack(e + "I", where)
        rows += struct.pack(e + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return (b"MM\0*" if big else b"II*\0") + struct.pack(e + "IH", 8, n) + rows + struct.pack(e + "I", 0) + out_of_line + data


def tiff_files():
    rng = np.random.default_rng(3)
    noise = lambda n: rng.integers(0, 256, n, np.uint8).tobytes()
    rgb = Image.fromarray(photo(31, 22))
    for c in ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd"]:
        put(f"rgb_{c}.tif", rgb, "TIFF", compression=c)
    for c in ["group3", "group4", "tiff_ccitt"]:
        put(f"bilevel_{c}.tif", rgb.convert("1"), "TIFF", compression=c)
    put("l.tif", rgb.convert("L"), "TIFF", compression="tiff_lzw")
    put("p.tif", rgb.quantize(60), "TIFF")
    put("la.tif", Image.fromarray(photo(31, 22, 2), "LA"), "TIFF", compression="tiff_lzw")
    put("rgba.tif", Image.fromarray(photo(31, 22, 4), "RGBA"), "TIFF", compression="tiff_adobe_deflate")
    put("cmyk.tif", Image.fromarray(photo(31, 22, 4), "CMYK"), "TIFF")
    put("cmyk_lzw.tif", Image.fromarray(photo(31, 22, 4), "CMYK"), "TIFF", compression="tiff_lzw")
    put("ycbcr.tif", rgb.convert("YCbCr"), "TIFF")
    put("lab.tif", Image.fromarray(photo(31, 22), "LAB"), "TIFF")
    put("lab_lzw.tif", Image.fromarray(photo(31, 22), "LAB"), "TIFF", compression="tiff_lzw")
    put("f.tif", Image.fromarray(np.linspace(-50, 400, 682).astype(np.float32).reshape(22, 31)), "TIFF")
    put("i.tif", Image.fromarray(np.linspace(-50, 400, 682).astype(np.int32).reshape(22, 31)), "TIFF")
    put("i16.tif", Image.fromarray(np.linspace(0, 900, 682).astype(np.uint16).reshape(22, 31)), "TIFF")
    put("i16_lzw.tif", Image.fromarray(np.linspace(0, 900, 682).astype(np.uint16).reshape(22, 31)), "TIFF", compression="tiff_lzw")
    for o in range(1, 9):
        put(f"orientation{o}.tif", rgb.crop((0, 0, 9, 6)), "TIFF", tiffinfo={274: o})
    for big in (False, True):
        x = "_be" if big else ""
        for bits in (1, 2, 4, 8):
            for photo_ in (0, 1):
                for fill in (1, 2):
                    row = (13 * bits + 7) // 8
                    FILES[f"grey{bits}_{photo_}_{fill}{x}.tif"] = tiff(13, 5, {258: [bits], 262: [photo_], 266: [fill]}, noise(row * 5), big)
        for photo_ in (0, 1):
            FILES[f"grey16_{photo_}{x}.tif"] = tiff(13, 5, {258: [16], 262: [photo_]}, noise(26 * 5), big)
        FILES[f"grey12{x}.tif"] = tiff(13, 5, {258: [12], 262: [1]}, noise(20 * 5), big)
        FILES[f"uint32{x}.tif"] = tiff(3, 2, {258: [32], 262: [1]}, struct.pack((">" if big else "<") + "6I", 0, 1, 255, 256, 2**31, 2**32 - 1), big)
        FILES[f"rgb16{x}.tif"] = tiff(13, 5, {258: [16] * 3, 262: [2], 277: [3]}, noise(78 * 5), big)
        FILES[f"rgba16_associated{x}.tif"] = tiff(13, 5, {258: [16] * 4, 262: [2], 277: [4], 338: [1]}, noise(104 * 5), big)
        FILES[f"planar{x}.tif"] = tiff(13, 5, {258: [8] * 3, 262: [2], 277: [3], 284: [2], 273: (4, [0, 65, 130]), 279: (4, [65] * 3)}, noise(195), big)
        FILES[f"tiled{x}.tif"] = tiff(21, 19, {258: [8] * 3, 262: [2], 277: [3], 322: [16], 323: [16], 324: (4, [0, 768, 1536, 2304]), 325: (4, [768] * 4)}, noise(3072), big, tiles=True)
    FILES["associated.tif"] = tiff(13, 5, {258: [8] * 4, 262: [2], 277: [4], 338: [1]}, noise(260))
    FILES["la_associated.tif"] = tiff(13, 5, {258: [8] * 2, 262: [1], 277: [2], 338: [1]}, noise(130))
    FILES["planar_cmyk.tif"] = tiff(13, 5, {258: [8] * 4, 262: [5], 277: [4], 284: [2], 273: (4, [0, 65, 130, 195]), 279: (4, [65] * 4)}, noise(260))
    planes = [zlib.compress(noise(65)) for _ in range(4)]
    starts = [sum(map(len, planes[:i])) for i in range(4)]
    for n, name, extra in [(3, "rgb", {}), (4, "rgba", {338: [2]}), (4, "rgba_associated", {338: [1]})]:
        FILES[f"planar_deflate_{name}.tif"] = tiff(13, 5, {258: [8] * n, 259: [8], 262: [2], 277: [n], 284: [2], 273: (4, starts[:n]), 279: (4, [len(p) for p in planes[:n]]), **extra}, b"".join(planes[:n]))
    FILES["palette4.tif"] = tiff(13, 5, {258: [4], 262: [3], 320: rng.integers(0, 65536, 48).tolist()}, noise(35))
    # One strip of five rows in a picture of nine: what is missing holds sample 0.
    few = {278: (4, [5])}
    FILES["palette_missing_rows.tif"] = tiff(13, 9, {258: [8], 262: [3], 320: rng.integers(0, 65536, 768).tolist(), **few}, noise(65))
    FILES["cmyk_missing_rows.tif"] = tiff(13, 9, {258: [8] * 4, 262: [5], 277: [4], **few}, noise(260))
    FILES["ycbcr_missing_rows.tif"] = tiff(13, 9, {258: [8] * 3, 262: [6], 277: [3], **few}, noise(195))
    FILES["float64.tif"] = tiff(2, 2, {258: [64], 262: [1], 339: [3]}, noise(32))
    FILES["missing_size.tif"] = tiff(13, 5, {}, noise(10)).replace(struct.pack("<HH", 256, 4), struct.pack("<HH", 255, 4))
    FILES["cut.tif"] = FILES["planar.tif"][:-1]
    FILES["deflate_cut.tif"] = FILES["planar_deflate_rgb.tif"][:-9]
    predictor = np.frombuffer(noise(195), np.uint8).reshape(5, 39)
    FILES["predictor.tif"] = tiff(13, 5, {258: [8] * 3, 259: [8], 262: [2], 277: [3], 317: [2]}, b"")
    z = zlib.compress(predictor.tobytes())
    FILES["predictor.tif"] = tiff(13, 5, {258: [8] * 3, 259: [8], 262: [2], 277: [3], 317: [2]}, z)


def ycbcr_tiff_files():
    """Compressed YCbCr around the size of a block of its chroma; no tag stands for 2x2."""
    rng = np.random.default_rng(12)
    for across, down in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (None, None)):
        sx, sy = across or 2, down or 2
        for width, height in {(sx, sy), (max(sx - 1, 1), sy), (sx, max(sy - 1, 1)), (sx + 1, sy)}:
            blocks = -(-width // sx) * -(-height // sy)
            data = zlib.compress(rng.integers(0, 256, blocks * (sx * sy + 2), np.uint8).tobytes())
            tags = {258: [8] * 3, 259: [8], 262: [6], 277: [3], 284: [1]} | ({530: [sx, sy]} if across else {})
            FILES[f"ycbcr_{f'{sx}{sy}' if across else 'untold'}_{width}x{height}.tif"] = tiff(width, height, tags, data)


def odd_tiff_files():
    """Metadata that Pillow computes with, and lists of offsets."""
    rng = np.random.default_rng(8)
    noise = lambda n: rng.integers(0, 256, n, np.uint8).tobytes()
    grey = {258: [8], 262: [1]}
    for name, tags in [("xmp_ascii", {700: (2, b"x\0")}), ("xmp_ascii_empty", {700: (2, b"\0")}), ("xmp_short", {700: (3, [7])}),
                       ("xmp_short_and_orientation", {700: (3, [7]), 274: (3, [3])}), ("xmp_undefined", {700: (7, b'tiff:Orientation="6"')}),
                       ("centimetre_text", {282: (2, b"72\0"), 296: (3, [3])}), ("centimetre_bytes", {283: (1, [72]), 296: (2, b"cm\0")}),
                       ("inch_text", {282: (2, b"72\0"), 296: (3, [2])}), ("xmp_ascii_and_orientation", {700: (2, b"x\0"), 274: (3, [3])}),
                       ("xmp_short_and_upright", {700: (3, [7]), 274: (3, [1])}), ("exif_negative", {34665: (9, [-8])}), ("gps_negative", {34853: (6, [-1])}),
                       ("exif_bytes", {34665: (1, [200])})]:
        FILES[f"{name}.tif"] = tiff(13, 5, {**grey, **tags}, noise(65))
    # Of planes the raw mode is its first letter: native numbers.
    for name, bits, kind, data in [("int32", 32, 2, np.arange(-20, 500, 8, dtype="<i4")), ("int16", 16, 2, np.arange(-20, 500, 8, dtype="<i2")),
                                   ("float32", 32, 3, np.arange(-20, 500, 8, dtype="<f4")), ("uint16", 16, 1, np.arange(0, 520, 8, dtype="<u2"))]:
        FILES[f"planar_{name}.tif"] = tiff(13, 5, {258: [bits], 262: [1], 284: [2], 339: [kind]}, data.tobytes() + bytes(130))
    packed = zlib.compress(noise(65))
    for offsets, sizes in [(5, 5), (5, 4), (1, 5), (4, 1)]:
        FILES[f"deflate_{offsets}_offsets_{sizes}_sizes.tif"] = tiff(13, 5, {**grey, 259: [8], 273: (4, [0] * offsets), 279: (4, [len(packed)] * sizes)}, packed)
    # Offsets that go round the picture: of each strip the largest counts.
    FILES["offsets_go_round.tif"] = tiff(13, 5, {**grey, 273: (4, [7, 90, 40, 3, 0, 60, 40, 90]), 278: (4, [3])}, noise(150))
    FILES["offsets_of_bytes.tif"] = tiff(13, 5, {**grey, 273: (1, [9, 80, 200]), 278: (4, [3])}, noise(300), absolute=True)
    FILES["negative_offset_covered.tif"] = tiff(13, 5, {**grey, 273: (9, [-5, 9, -7]), 278: (4, [6])}, noise(150), absolute=True)
    FILES["negative_offset.tif"] = tiff(13, 5, {**grey, 273: (9, [-5, 9, 12]), 278: (4, [3])}, noise(150), absolute=True)
    # Rows of the right tile are too short for its samples: an error that counts in the last tile alone.
    short_rows = {258: [8], 262: [6], 284: [2], 322: [16], 323: [16]}
    FILES["tile_error_first.tif"] = tiff(30, 9, {**short_rows, 324: (4, [20, 5])}, noise(300), tiles=True)
    FILES["tile_error_last.tif"] = tiff(30, 9, {**short_rows, 324: (4, [5, 20])}, noise(300), tiles=True)
    FILES["tile_error_cut.tif"] = tiff(30, 9, {**short_rows, 324: (4, [5, 300])}, noise(300), tiles=True)
    # Tags that Python knows as bytes.
    rgb = {258: [8] * 3, 262: [2], 277: [3]}
    FILES["sample_format_bytes.tif"] = tiff(13, 5, {**rgb, 339: (1, [1] * 3)}, noise(195))
    FILES["sample_format_byte.tif"] = tiff(13, 5, {**grey, 339: (1, [1])}, noise(65))
    planes = [zlib.compress(noise(65)) for _ in range(4)]
    sizes = [len(p) for p in planes]
    for extra in (0, 1):
        FILES[f"planar_extra_byte_{extra}.tif"] = tiff(13, 5, {258: [8] * 4, 262: [2], 277: [4], 284: [2], 338: (1, [extra]), 259: [8], 273: (4, [sum(sizes[:i]) for i in range(4)]), 279: (4, sizes)}, b"".join(planes))
    # What libtiff 4.7 reads and 4.5 does not.
    for big in (False, True):
        packed = zlib.compress(noise(260))
        FILES[f"sample_formats_too_few{'_be' * big}.tif"] = tiff(13, 5, {258: [8] * 4, 262: [2], 277: [4], 338: [2], 259: [8], 339: [1] * 3, 279: (4, [len(packed)])}, packed, big)
        packed = zlib.compress(noise(195))
        FILES[f"sizes_of_directory_type{'_be' * big}.tif"] = tiff(13, 5, {**rgb, 259: [8], 256: (13, [13]), 257: (13, [5]), 278: (13, [5]), 279: (13, [len(packed)])}, packed, big)
    FILES["bits_of_directory_type.tif"] = tiff(13, 5, {**rgb, 259: [8], 258: (13, [8] * 3)}, packed)
    for name, tags in [("compressions_too_few", {259: [8] * 2}), ("compressions_unlike", {259: [8, 5]}), ("data_types_too_few", {32996: [1] * 2}),
                       ("largest_values_too_few", {281: (16, [255] * 2)}), ("depth_of_directory_type", {32997: (13, [1])}),
                       ("sizes_of_directory8_type", {278: (18, [5]), 279: (18, [len(packed)])}), ("tile_offsets_of_directory8_type", {324: (18, [1] * 6)})]:
        FILES[f"{name}.tif"] = tiff(13, 5, {**rgb, 259: [8], **tags}, packed)
    # The strip is the directory, its own type with it.
    FILES["directory_is_data.tif"] = tiff(5, 3, {**grey, 259: [32773], 273: (13, [70]), 279: (4, [40])}, b"", absolute=True)
    for rows in (2**31 // 52 - 1, 2**31 // 52 + 1):  # of 13 pixels of 4 bytes
        FILES[f"ycbcr_strip_of_{rows}_rows.tif"] = tiff(13, 5, {258: [8] * 3, 262: [6], 277: [3], 259: [8], 530: [1, 1], 278: (4, [rows]), 279: (4, [len(packed)])}, packed)
    # Pillow's libtiff is built without WebP.
    FILES["webp.tif"] = tiff(13, 5, {**rgb, 259: [50001]}, save(Image.fromarray(photo(13, 5)), "WEBP"))


def box(kind, body):
    return struct.pack(">I", len(body) + 8) + kind + body


def boxed(width, height, components, colors, stream):
    """A JP2 file of 8 bits around a codestream."""
    head = box(b"ihdr", struct.pack(">IIHBBBB", height, width, components, 7, 7, 0, 0)) + colors
    return b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + box(b"jp2h", head) + box(b"jp2c", stream)


def jp2_files():
    rgb = Image.fromarray(photo(31, 22))
    put("lossless.jp2", rgb, "JPEG2000")
    put("lossy.jp2", rgb, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[8])
    put("tiles.jp2", rgb, "JPEG2000", tile_size=(16, 16))
    put("codestream.j2k", rgb, "JPEG2000", no_jp2=True)
    put("l.jp2", rgb.convert("L"), "JPEG2000")
    put("la.jp2", Image.fromarray(photo(31, 22, 2), "LA"), "JPEG2000")
    whole = put("rgba.jp2", Image.fromarray(photo(31, 22, 4), "RGBA"), "JPEG2000")
    put("i16.jp2", Image.fromarray(np.linspace(0, 900, 682).astype(np.uint16).reshape(22, 31)), "JPEG2000")
    FILES["cut.jp2"] = whole[:-20]
    at = FILES["lossless.jp2"].index(b"colr") + 7
    FILES["sycc.jp2"] = FILES["lossless.jp2"][:at] + struct.pack(">I", 18) + FILES["lossless.jp2"][at + 4:]
    whole = FILES["lossless.jp2"]
    tiles_at = whole.index(b"\xff\x51") + 22
    FILES["largest_tile.jp2"] = whole[:tiles_at] + b"\xff" * 8 + whole[tiles_at + 8:]
    at = whole.index(b"jp2h") - 4
    size = struct.unpack(">I", whole[at:at + 4])[0]
    for name, body in [("resolution", box(b"resc", struct.pack(">HHHHBB", 1, 1, 1, 0, 255, 0))), ("empty_resolution", b""),
                       ("short_resolution", box(b"resc", bytes(9))), ("cut_resolution", b"abc")]:
        resolution = box(b"res ", body)
        FILES[f"{name}.jp2"] = whole[:at] + struct.pack(">I", size + len(resolution)) + whole[at + 4:at + size] + resolution + whole[at + size:]
    between = box(b"free", b"abcd")
    FILES["free_box.jp2"] = whole[:at + size] + between + whole[at + size:]
    # OpenJPEG takes the first colour box that names a space or holds a profile; Pillow reads all.
    srgb, cmyk = (box(b"colr", b"\1\0\0" + struct.pack(">I", space)) for space in (16, 12))
    profile = box(b"colr", b"\2\0\0" + bytes(9))
    rgb_stream, grey_stream = (save(i, "JPEG2000", no_jp2=True) for i in (rgb, rgb.convert("L")))
    for name, colors in [("profile_then_space", profile + cmyk), ("space_then_profile", cmyk + profile), ("unknown_then_space", box(b"colr", b"\3\0\0" + bytes(9)) + srgb)]:
        FILES[f"{name}.jp2"] = boxed(31, 22, 3, colors, rgb_stream)
    # Palettes as ImagePalette.getcolor() fills them.
    entries = np.random.default_rng(14).integers(0, 256, 2000, np.uint8).tobytes()
    for channels, count, space in [(0, 3, srgb), (1, 9, srgb), (2, 9, srgb), (4, 256, srgb), (4, 256, cmyk), (5, 255, srgb), (5, 257, srgb), (6, 128, srgb), (6, 129, srgb), (7, 128, cmyk)]:
        palette = box(b"pclr", struct.pack(">HB", count, channels) + b"\7" * channels + entries[:count * channels])
        FILES[f"palette_of_{count}_by_{channels}{'_cmyk' * (space == cmyk)}.jp2"] = boxed(31, 22, 1, space + palette, grey_stream)
    # Tables of tile-part lengths (TLM) whose size does not fit.
    at = grey_stream.index(b"\xff\x52")
    for size in (1, 2, 3, 9):
        FILES[f"tile_part_lengths_{size}.j2k"] = grey_stream[:at] + b"\xff\x55" + struct.pack(">H", 2 + size) + (b"\0\x50" + bytes(size))[:size] + grey_stream[at:]


def avif_files():
    rgb = Image.fromarray(photo(31, 22))
    for s in ["4:4:4", "4:2:2", "4:2:0", "4:0:0"]:
        put(f"yuv{s.replace(':', '')}.avif", rgb, "AVIF", subsampling=s, speed=10)
    put("limited.avif", rgb, "AVIF", range="limited", speed=10)
    put("l.avif", rgb.convert("L"), "AVIF", speed=10)
    grey = save(rgb, "AVIF", subsampling="4:0:0", speed=10)
    at = grey.index(b"colrnclx") + 12  # its matrix
    FILES["grey_identity.avif"] = grey[:at] + b"\0\0" + grey[at + 2:]
    whole = put("alpha.avif", Image.fromarray(photo(31, 22, 4), "RGBA"), "AVIF", speed=10)
    FILES["cut.avif"] = whole[:-1]
    whole = put("exif.avif", rgb, "AVIF", speed=10, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    at = whole.index(b"Exif\0\0MM")  # 4 bytes before it say where its TIFF header is
    FILES["exif_wrong_offset.avif"] = whole[:at - 1] + b"\0" + whole[at:]
    FILES["exif_no_header.avif"] = whole[:at + 6] + b"XX" + whole[at + 8:]
    FILES["exif_junk_before.avif"] = whole[:at] + b"Axif" + whole[at + 4:]
    for name, before, value in [("nclx_reserved_bits", b"colrnclx", (14, 0x81)), ("pixi_no_planes", b"pixi", (8, 0))]:
        at = grey.index(before) + value[0]
        FILES[f"{name}.avif"] = grey[:at] + bytes([value[1]]) + grey[at + 1:]


def verdict(name, data):
    try:
        image = Image.open(io.BytesIO(data))
        rgb = image.convert("RGB")
    except Exception as e:
        return [name, "refused", type(e).__name__]
    side = (SIZE, SIZE)
    bicubic = rgb.resize(side, Image.Resampling.BICUBIC)
    bilinear = rgb.resize(side, Image.Resampling.BILINEAR)
    old = rgb.resize((SIZE, rgb.height), Image.Resampling.BICUBIC).resize(side, Image.Resampling.BICUBIC)
    x = np.asarray(bicubic).astype(np.float32) / np.float32(255)
    pixels = ((x - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1)
    digest = lambda b: hashlib.sha256(b).hexdigest()[:32]
    return [name, image.format, str(rgb.width), str(rgb.height), digest(rgb.tobytes()),
            digest(bicubic.tobytes()), digest(bilinear.tobytes()), digest(old.tobytes()),
            digest(np.ascontiguousarray(pixels).astype("<f4").tobytes())]


def main():
    warnings.simplefilter("ignore")
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for maker in [png_files, odd_png_files, jpeg_files, cut_progressive_jpeg_files, lossless_jpeg_files, odd_jpeg_files, gif_files, bmp_files, pnm_files, webp_files, tiff_files, ycbcr_tiff_files, odd_tiff_files, jp2_files, avif_files]:
        maker()
    rows = []
    for name, data in sorted(FILES.items()):
        (out / name).write_bytes(data)
        rows.append("\t".join(verdict(name, data)))
    codecs = " ".join(f"{n} {features.version(n)}" for n in ("jpg", "webp", "libtiff", "avif", "jpg_2000"))
    head = [f"# Pillow {PIL.__version__}; {codecs}; numpy {np.__version__}; written by tools/make_image_goldens.py",
            f"# size {SIZE}; name format width height rgb bicubic bilinear p12 pixels (first half of SHA-256)"]
    (out / "manifest.tsv").write_text("\n".join(head + rows) + "\n")
    print(len(FILES), "files,", sum(map(len, FILES.values())), "bytes")


main()
