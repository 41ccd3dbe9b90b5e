"""Asks a running server for an image's embedding and prints its head. Standard library only.

The raw form of the protocol: the body is the image file, Inference-Header-Content-Length is 0; the answer
is a JSON head followed by little-endian float32 numbers.
"""

import json
import math
import struct
import sys
import urllib.request


def main() -> int:
    address, path = sys.argv[1], sys.argv[2]
    with open(path, "rb") as file:
        body = file.read()
    request = urllib.request.Request(
        f"http://{address}/v2/models/embed_image/infer",
        data=body,
        headers={"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        head_bytes = int(response.headers["Inference-Header-Content-Length"])
        answer = response.read()
    head = json.loads(answer[:head_bytes])
    output = head["outputs"][0]
    values = struct.unpack(f"<{len(answer[head_bytes:]) // 4}f", answer[head_bytes:])
    norm = math.sqrt(sum(v * v for v in values))
    shown = ", ".join(f"{v:+.4f}" for v in values[:8])
    print(f"model {head['model_name']}, output {output['name']} {output['datatype']} {output['shape']}, norm {norm:.4f}")
    print(f"[{shown}, ...]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
