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


def put(name, image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    FILES[name] = out.getvalue()
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
    FILES["two_components.jpg"] = baseline.replace(b"\xff\xc0\x00\x11\x08\x00\x21\x00\x2d\x03", b"\xff\xc0\x00\x11\x08\x00\x21\x00\x2d\x02")
    FILES["twelve_bit.jpg"] = baseline.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")


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
    for maker in [png_files, jpeg_files]:
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
