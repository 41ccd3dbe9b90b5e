#!/usr/bin/env python3
"""Requests of many pictures, one at a time: the median time of one, and how many took over --slow-ms.

    .venv/clients/bin/python bench/large_requests.py --url localhost:8001 data/demo/valid/*/*.JPEG

Of any server of Triton's protocol over gRPC, a stock Triton with our backends too (docs/triton.md). Each request has
--items other pictures of those that are named. The first one is not counted.
"""

import argparse
import itertools
import json
import pathlib
import statistics
import time

import numpy as np
import tritonclient.grpc as grpcclient


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    parser.add_argument("--url", default="localhost:8001")
    parser.add_argument("--model", default="embed_image")
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--requests", type=int, default=36)
    parser.add_argument("--slow-ms", type=float, default=450)
    args = parser.parse_args()

    client = grpcclient.InferenceServerClient(args.url)
    pictures = itertools.cycle([path.read_bytes() for path in args.images])
    times = []
    for _ in range(args.requests + 1):
        rows = np.array([[next(pictures)] for _ in range(args.items)], dtype=object)
        images = grpcclient.InferInput("INPUT_IMAGE", rows.shape, "BYTES")
        images.set_data_from_numpy(rows)
        start = time.perf_counter()
        client.infer(args.model, [images])
        times.append(1e3 * (time.perf_counter() - start))
    del times[0]
    print(json.dumps({"items": args.items, "requests": len(times), "median_ms": round(statistics.median(times), 1),
                      f"over_{args.slow_ms:g}_ms": sum(ms > args.slow_ms for ms in times)}))


if __name__ == "__main__":
    main()
