#!/usr/bin/env python3
"""Writes tests/fuzz/TARGET/*: inputs that the fuzz targets start from, which are replayed as plain tests too.

    .venv/clients/bin/python tools/make_fuzz_seeds.py      (tools/setup/requirements-clients.txt)

Files that are there and not named here are kept: what fuzzing found. The seeds of image_decode_fuzz are tests/data/image.
"""

import json
import pathlib
import struct

from tritonclient.grpc import service_pb2

ROOT = pathlib.Path(__file__).resolve().parents[1]
SEEDS = ROOT / "tests/fuzz"


def write(target, name, data):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def http_infer():
    """The header length up to a line feed, then the body."""
    image = {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES", "data": ["aGVsbG8="]}
    parameters = {"parameters": {"base64_encoded": True, "priority": 1, "timeout": 5000000, "x": 1.5}}
    outputs = {"outputs": [{"name": "EMBEDDING", "parameters": {"binary_data": True, "classification": 3}}]}
    write("http_infer_fuzz", "json_bytes", "\n" + json.dumps({"id": "1", "inputs": [image], **parameters, **outputs}))
    write("http_infer_fuzz", "json_floats", "\n" + json.dumps({"inputs": [
        {"name": "PIXEL_VALUES", "shape": [1, 3, 2, 2], "datatype": "FP32", "data": [[[[0.5, -1e-7], [1, 2]]] * 3]}]}))
    for datatype, value in (("INT64", -5), ("UINT8", 255), ("BOOL", True), ("FP64", 1e300), ("INT32", 2147483647)):
        write("http_infer_fuzz", f"json_{datatype}", "\n" + json.dumps({"inputs": [
            {"name": "x", "shape": [2], "datatype": datatype, "data": [value, value]}]}))
    header = json.dumps({"inputs": [{"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES",
                                     "parameters": {"binary_data_size": 9}}], "outputs": [{"name": "EMBEDDING"}]})
    write("http_infer_fuzz", "binary", f"{len(header)}\n{header}".encode() + struct.pack("<I", 5) + b"hello")
    memory = {"shared_memory_region": "r", "shared_memory_byte_size": 9, "shared_memory_offset": 4}
    write("http_infer_fuzz", "shared_memory", "\n" + json.dumps({"inputs": [
        {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES", "parameters": memory}]}))
    write("http_infer_fuzz", "unicode", "\n" + json.dumps({"id": "\u00e9\U0001f408", "inputs": [
        {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["\ud83d\udc08 \u0000"]}]}))
    write("http_infer_fuzz", "index", '\n{"ready": true}')


def http_framing():
    """All that a client sends on one connection."""
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    post = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n"
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nTrailer: t\r\n\r\n"
    for name, sent in {
        "get": get, "http10": b"GET / HTTP/1.0\r\n\r\n", "pipelined": get * 3,
        "sized": post + b"Content-Length: 5\r\nInference-Header-Content-Length: 0\r\n\r\nhello" + get,
        "chunked": chunked + get, "expect": post + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        "both_framings": post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get,
        "two_lengths": post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "too_large": post + b"Content-Length: 99999999999\r\n\r\nx", "close": get[:-2] + b"Connection: close\r\n\r\n" + get,
        "head": b"HEAD" + get[3:], "key": get[:-2] + b"Authorization: Bearer k\r\nAccept-Encoding: gzip;q=0.5\r\n\r\n",
        "tls": bytes.fromhex("16030100a5010000a10303") + bytes(40),
    }.items():
        write("http_framing_fuzz", name, sent)


def control_json():
    """The kind of body, then the body."""
    image = "data:image/png;base64,aGVsbG8="
    for name, kind, body in (
            ("embeddings", 0, {"model": "embed_text", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 64}),
            ("embeddings_parts", 0, {"model": "both", "input": [
                {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": image}}, {"image": image}]}),
            ("embeddings_images", 0, {"model": "embed_image", "input": [image, "aGVsbG8=", "https://a.example/b.png"]}),
            ("generate", 1, {"INPUT_TEXT": "a", "X": [1, 2.5], "I": [-1, 2], "timeout": 5, "x": "y"}),
            ("load", 2, {"parameters": {"config": json.dumps({"name": "m", "max_batch_size": 4}), "file:1/model": "aGk="}}),
            ("unload", 3, {"parameters": {"unload_dependents": True}}),
            ("region", 4, {"key": "/name", "offset": 4, "byte_size": 64}),
            ("trace", 5, {"trace_file": "x", "trace_level": ["TIMESTAMPS"], "trace_rate": "100", "trace_count": "-1"}),
            ("log", 6, {"log_verbose_level": 1, "log_info": True, "log_format": "default"})):
        write("control_json_fuzz", name, bytes([kind]) + json.dumps(body).encode())


def grpc_infer():
    request = service_pb2.ModelInferRequest(model_name="embed_image", model_version="1", id="7")
    tensor = request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    request.parameters["base64_encoded"].bool_param = True
    request.outputs.add(name="EMBEDDING").parameters["classification"].int64_param = 3
    request.raw_input_contents.append(struct.pack("<I", 5) + b"hello")
    write("grpc_infer_fuzz", "raw", request.SerializeToString())
    del request.raw_input_contents[:]
    tensor.contents.bytes_contents.append(b"hello")
    write("grpc_infer_fuzz", "contents", request.SerializeToString())
    floats = service_pb2.ModelInferRequest(model_name="siglip_vision_model")
    floats.inputs.add(name="PIXEL_VALUES", datatype="FP32", shape=[1, 3, 1, 1]).contents.fp32_contents.extend([1, 2, 3])
    write("grpc_infer_fuzz", "floats", floats.SerializeToString())


def neighbor_graph():
    """Of the target's 40 rows: a ring with two links each way, and four points of it in a layer above.

    In the other seed rows 30 to 39 are copies of rows 0 to 9.
    """
    def ring(rows, size, links):
        for i in range(len(rows)):
            near = [rows[(i + step) % len(rows)] for step in (1, -1, 2, -2)][:size]
            yield struct.pack(f"<{links + 1}I", len(near), *near, *[0] * (links - len(near)))

    above = [0, 10, 20, 30]
    layers = bytes(1 if row in above else 0 for row in range(40))
    head = struct.pack("<4I40I40f", 2, 10, 0, 1, *range(40), *[0.1] * 40)
    write("neighbor_graph_fuzz", "two_layers", head + layers + b"".join([*ring(range(40), 4, 4), *ring(above, 2, 2)]))
    write("neighbor_graph_fuzz", "one_layer",
          struct.pack("<4I40I30f", 2, 10, 29, 0, *range(30), *range(10), *[1.0] * 30) + bytes(30)
          + b"".join(ring(range(30), 3, 4)))


def spiece_model():
    """Small SentencePiece models of each kind, as protobuf messages, and one with a map of characters that turns "a" into
    "bb" and a combining accent into nothing."""
    def varint(value):
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    def field(number, value):
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        if isinstance(value, float):
            return varint(number << 3 | 5) + struct.pack("<f", value)
        value = value if isinstance(value, bytes) else value.encode()
        return varint(number << 3 | 2) + varint(len(value)) + value

    def pieces(*more):
        return b"".join(field(1, field(1, text) + field(2, -1.5 - i) + field(3, kind)) for i, (text, kind) in enumerate([
            ("<unk>", 2), ("</s>", 3), ("<pad>", 3), ("\u2581", 1), ("a", 1), ("b", 1), ("ab", 1), ("\u2581a", 1), *more]))

    def unit(offset, label, ends_key=False):
        return offset << 10 | ends_key << 8 | label

    symbols = [("aab", 4), ("aa", 4), ("ba", 5)]
    for name, kind in (("unigram", 1), ("bpe", 2), ("word", 3), ("char", 4)):
        write("spiece_model_fuzz", name, pieces(*symbols) + field(2, field(3, kind)))
    of_bytes = [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    write("spiece_model_fuzz", "byte_fallback", pieces(*of_bytes) + field(2, field(3, 1) + field(35, 1)))
    units = [1 << 31] * 256  # nobody's children
    units[0] = unit(1, 0)
    units[1 ^ 0x61], units[0x70] = unit(1 ^ 0x61 ^ 0x70, 0x61, True), 1 << 31
    units[1 ^ 0xcc] = unit(1 ^ 0xcc ^ 0x20, 0xcc)
    units[0x20 ^ 0x81], units[0x21] = unit(0x20 ^ 0x81 ^ 0x21, 0x81, True), 1 << 31 | 2
    char_map = struct.pack("<I256I", 1024, *units) + b"bb\0\0"
    normalizer = field(1, "own") + field(2, char_map)
    write("spiece_model_fuzz", "char_map", pieces(*symbols) + field(2, field(3, 1)) + field(3, normalizer) + field(
        4, field(1, field(1, "ab") + field(2, "\u2581 b b b"))) + field(5, normalizer))


def main():
    http_framing()
    http_infer()
    control_json()
    grpc_infer()
    neighbor_graph()
    spiece_model()
    write("binary_split_fuzz", "two", bytes([2]) + struct.pack("<I", 1) + b"a" + struct.pack("<I", 0))
    write("binary_split_fuzz", "none", bytes([0]))
    for config in sorted((ROOT / "model_repository").glob("*/config.pbtxt")):
        write("model_config_fuzz", config.parent.name, config.read_bytes())
    demo = ROOT / "models/demo"
    for name in ("config.json", "preprocessor_config.json"):
        write("config_fuzz", name, (demo / name).read_bytes())
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                         "b": {"dtype": "BF16", "shape": [], "data_offsets": [8, 10]}, "__metadata__": {"format": "pt"}})
    write("safetensors_fuzz", "two_tensors", struct.pack("<Q", len(header)) + header.encode() + bytes(10))
    for i, text in enumerate(("A photo of a cat.", "</s>x<unk>", "\u0391\u03a3 \U0001f408\U0001f525", "a" * 300)):
        write("tokenizer_fuzz", str(i), text)
    small = {"added_tokens": [{"id": 0, "content": "<pad>"}, {"id": 1, "content": "<eos>", "normalized": True}],
             "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}, "pre_tokenizer": None,
             "post_processor": {"type": "TemplateProcessing", "single": [
                 {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<eos>"}}],
                 "special_tokens": {"<eos>": {"id": "<eos>", "ids": [1]}}},
             "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True, "vocab": {
                 "<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3, "b": 4, "\u2581": 5, "ab": 6, "<0x41>": 7},
                 "merges": [["a", "b"], "b a"][:1]}}
    write("tokenizer_json_fuzz", "small", json.dumps(small, ensure_ascii=False))
    token = {"content": "<a>", "lstrip": True, "rstrip": False, "single_word": False, "special": True, "normalized": False}
    config = {"padding_side": "left", "model_max_length": 64, "split_special_tokens": False, "do_lower_case": True,
              "eos_token": "</s>", "mask_token": {"__type": "AddedToken", **token}, "image_token": "<i>",
              "extra_special_tokens": ["<b>"], "additional_special_tokens": {"x_token": "<x>"}}
    older = json.dumps({"pad_token": token, "additional_special_tokens": ["<c>"]}) + "\n\0" + json.dumps({"<d>": 7})
    write("tokenizer_config_fuzz", "older_files", json.dumps(config) + "\n\0" + older)
    write("tokenizer_config_fuzz", "decoder", json.dumps({**config, "added_tokens_decoder": {"7": token}}))
    write("image_resize_fuzz", "down", struct.pack("<4HB", 99, 70, 15, 15, 1) + bytes(range(64)))
    write("image_resize_fuzz", "up", struct.pack("<4HB", 3, 200, 40, 79, 2) + bytes(range(200, 256)))


if __name__ == "__main__":
    main()
