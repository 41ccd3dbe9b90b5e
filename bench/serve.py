#!/usr/bin/env python3
"""The server against the library: CPU seconds per image, throughput and latency at concurrency 60.

    python3 bench/serve.py --siglip build/release/src/cli/siglip --model DIR IMAGES...

Standard library only. The library's cost is engine plus preprocessing, measured by `siglip bench` between the server
runs; the load generator is `siglip bench server`. Goals: server CPU per image <= 1.03 x the library's on a base-size
checkpoint and up, p99 <= 1.3 x p50.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys

GOAL_CPU = 1.03
GOAL_P99 = 1.3


def run_json(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: {result.stderr}")
    return json.loads(result.stdout)


def start_doors(command):
    """The process, and the ports that it says it listens on, as (http, grpc)."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        found = re.search(r"listening http=\S+?:(\d+) grpc=\S+?:(\d+)", line)
        if found:
            return process, found.group(1), found.group(2)
    sys.exit(f"{command[0]} did not start")


def start_server(siglip, model, extra):
    """`siglip serve` on free ports, as start_doors."""
    return start_doors(
        [siglip, "serve", "--model", model, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", *extra])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--siglip", default="build/release/src/cli/siglip")
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--concurrency", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, required=True, help="the checkpoint's image size")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    library, server = [], {"grpc": [], "http": []}
    process, http, grpc = start_server(args.siglip, args.model, [])
    try:
        for _ in range(args.rounds):
            engine = run_json([args.siglip, "bench", "engine", "--model", args.model, "--batch", "16", "--json",
                               "--seconds", str(args.seconds / 4)])
            pixels = run_json([args.siglip, "bench", "preprocess", "--size", str(args.size), "--json", "--seconds",
                               str(args.seconds / 4), *args.images])
            library.append(engine["cpu_s_per_item"] + pixels["best_ms"] / 1e3)
            for protocol, port in (("grpc", grpc), ("http", http)):
                server[protocol].append(run_json(
                    [args.siglip, "bench", "server", "--protocol", protocol, "--url", f"127.0.0.1:{port}", "--json",
                     "--concurrency", str(args.concurrency), "--seconds", str(args.seconds), "--server-pid",
                     str(process.pid), *args.images]))
    finally:
        process.terminate()
        process.wait()

    library_cpu = min(library)
    rows = {}
    for protocol, runs in server.items():
        best = min(runs, key=lambda run: run["server_cpu_s_per_image"])
        rows[protocol] = {
            "images_per_s": statistics.median(run["images_per_s"] for run in runs),
            "p50_ms": best["p50_ms"], "p99_ms": best["p99_ms"], "failures": sum(run["failures"] for run in runs),
            "server_cpu_ms": best["server_cpu_s_per_image"] * 1e3,
            "cpu_ratio": best["server_cpu_s_per_image"] / library_cpu,
            "p99_over_p50": best["p99_ms"] / best["p50_ms"],
        }
    if args.json:
        print(json.dumps({"library_cpu_ms": library_cpu * 1e3, **rows}))
        return 0
    print(f"library: {library_cpu * 1e3:.3f} CPU-ms per image (engine + preprocessing)")
    passed = True
    for protocol, row in rows.items():
        print(f"{protocol}: {row['images_per_s']:.1f} images/s, {row['server_cpu_ms']:.3f} CPU-ms per image, "
              f"p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms, {row['failures']} failures")
        for name, value, goal in (("CPU ratio to the library", row["cpu_ratio"], GOAL_CPU),
                                  ("p99 / p50", row["p99_over_p50"], GOAL_P99)):
            verdict = "pass" if value <= goal else "FAIL"
            passed &= value <= goal
            print(f"  {name}: {value:.3f} (goal {goal}) {verdict}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
