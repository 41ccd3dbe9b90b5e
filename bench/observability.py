#!/usr/bin/env python3
"""What watching costs: the server's CPU time per image with traces, histograms, summaries and the response cache on,
against the same server with all of them off.

    python3 bench/observability.py --siglip build/release/src/cli/siglip --model models/demo IMAGES...

Standard library only. The variants take turns, --rounds times, each with a server of its own; the least CPU time of each
counts, as load of others only adds. A small checkpoint makes the difference visible: it is a number of microseconds
per request, whatever the model, so --image-ms says of which model's CPU time per image it is to be at most 2 %. A median of
the rounds' differences beside the spread says whether the machine was quiet enough.
"""

import argparse
import json
import statistics
import sys
import tempfile

from serve import run_json, start_server

GOAL = 0.02
OFF = ["--metrics-config", "histogram_latencies=false", "--metrics-config", "counter_latencies=false"]


def variants(folder):
    """Name -> options of the server."""
    def trace(rate):
        return ["--trace-config", f"triton,file={folder}/trace_{rate}.json", "--trace-config", "level=TIMESTAMPS",
                "--trace-config", f"rate={rate}"]

    return {
        "all off": OFF,
        "counters": ["--metrics-config", "histogram_latencies=false"],
        "counters, histograms (default)": [],
        "and summaries": ["--metrics-config", "summary_latencies=true"],
        "default, trace 1 in 100": trace(100),
        "default, trace every request": trace(1),
        "default, cache, every image is in it": ["--cache-config", "local,size=100000000"],
        # Too small for an answer: every request is hashed, looked up and inserted in vain.
        "default, cache, no image is in it": ["--cache-config", "local,size=64"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--siglip", default="build/release/src/cli/siglip")
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--protocol", choices=["http", "grpc"], default="http")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image-ms", type=float, required=True,
                        help="CPU milliseconds per image of the model that the goal is for (bench/serve.py)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        runs = {name: [] for name in variants(folder)}
        for _ in range(args.rounds):
            for name, options in variants(folder).items():
                process, http, grpc = start_server(args.siglip, args.model, options)
                try:
                    run = run_json([args.siglip, "bench", "server", "--protocol", args.protocol, "--url",
                                    f"127.0.0.1:{http if args.protocol == 'http' else grpc}", "--json",
                                    "--concurrency", str(args.concurrency), "--seconds", str(args.seconds),
                                    "--server-pid", str(process.pid), *args.images])
                finally:
                    process.terminate()
                    process.wait()
                if run["failures"]:
                    sys.exit(f"{name}: {run['failures']} requests failed")
                runs[name].append(run["server_cpu_s_per_image"] * 1e6)

    off = runs["all off"]
    table, passed = {}, True
    for name, cpu_us in runs.items():
        extra_us = min(cpu_us) - min(off)
        share = extra_us / (args.image_ms * 1e3)
        passed &= share <= GOAL
        table[name] = {"cpu_us": min(cpu_us), "extra_us": extra_us, "share": share,
                       "median_extra_us": statistics.median(a - b for a, b in zip(cpu_us, off)),
                       "spread_us": max(cpu_us) - min(cpu_us)}
    if args.json:
        print(json.dumps(table))
        return 0
    print(f"{args.protocol}, {args.rounds} rounds; share of {args.image_ms} CPU-ms per image, goal {GOAL:.0%}")
    for name, row in table.items():
        print(f"{name:38} {row['cpu_us']:8.1f} us  {row['extra_us']:+7.1f} us  median {row['median_extra_us']:+7.1f}  "
              f"spread {row['spread_us']:6.1f}  {row['share']:+7.2%} {'pass' if row['share'] <= GOAL else 'FAIL'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
