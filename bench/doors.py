#!/usr/bin/env python3
"""The doors against empty ones: requests per second and CPU time per request on a small checkpoint, where the server is
the cost, beside what Beast and grpc++ reach with a handler that does nothing.

    python3 bench/doors.py --bin build/release/src data/demo/valid

Standard library only. `empty_doors` reads the same requests whole and answers an embedding of the same size. The library's
part (decode, resize, tower) is measured by `siglip bench` in the same rounds; what is left is the server's own: queues,
two models of an ensemble, statistics, metrics. With the response cache the library does nothing: each picture is hashed
and looked up. Runs take turns; the least CPU time of each counts, as load of others only adds, and the median rate.
"""

import argparse
import json
import pathlib
import statistics
import sys

from serve import run_json, start_doors, start_server


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--bin", type=pathlib.Path, default="build/release/src", help="folder of the built programs")
    parser.add_argument("--model", type=pathlib.Path, default="models/demo")
    parser.add_argument("--concurrency", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    siglip = str(args.bin / "cli/siglip")
    vision = json.loads((args.model / "config.json").read_text())["vision_config"]
    empty = start_doors([str(args.bin / "server/empty_doors"), str(vision["hidden_size"])])
    full = start_server(siglip, str(args.model), [])
    cached = start_server(siglip, str(args.model), ["--cache-config", "local,size=100000000"])
    servers = {"empty": empty, "siglip": full, "siglip, answers cached": cached}
    library, runs = [], {}
    try:
        for _ in range(args.rounds):
            engine = run_json([siglip, "bench", "engine", "--model", str(args.model), "--batch", "16", "--json",
                               "--seconds", str(args.seconds / 4)])
            pixels = run_json([siglip, "bench", "preprocess", "--size", str(vision["image_size"]), "--json", "--seconds",
                               str(args.seconds / 4), *args.images])
            library.append(engine["cpu_s_per_item"] + pixels["best_ms"] / 1e3)
            for name, (process, http, grpc) in servers.items():
                for protocol, port in (("http", http), ("grpc", grpc)):
                    runs.setdefault((name, protocol), []).append(run_json(
                        [siglip, "bench", "server", "--protocol", protocol, "--url", f"127.0.0.1:{port}", "--json",
                         "--concurrency", str(args.concurrency), "--seconds", str(args.seconds), "--server-pid",
                         str(process.pid), *args.images]))
    finally:
        for process, _, _ in servers.values():
            process.terminate()
            process.wait()

    rows = {f"{name} {protocol}": {
        "requests_per_s": statistics.median(run["images_per_s"] for run in taken),
        "cpu_us": 1e6 * min(run["server_cpu_s_per_image"] for run in taken),
        "failures": sum(run["failures"] for run in taken),
    } for (name, protocol), taken in runs.items()}
    library_us = 1e6 * min(library)
    for protocol in ("http", "grpc"):
        rows[f"siglip {protocol}"]["own_us"] = (
            rows[f"siglip {protocol}"]["cpu_us"] - rows[f"empty {protocol}"]["cpu_us"] - library_us)
    if args.json:
        print(json.dumps({"library_us": library_us, **rows}))
    else:
        print(f"library: {library_us:.0f} CPU-us per image (engine + preprocessing)")
        for name, row in rows.items():
            own = f", {row['own_us']:.0f} us beside the library and the empty door" if "own_us" in row else ""
            print(f"{name}: {row['requests_per_s']:.0f} requests/s, {row['cpu_us']:.0f} CPU-us per request{own}, "
                  f"{row['failures']} failures")
    return 1 if any(row["failures"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
