#!/usr/bin/env python3
"""Start-up: seconds until ready and memory, packing against a packed-weight cache, beside reading the weights.

    python3 bench/startup.py --siglip build/ci/src/cli/siglip --model DIR [--precision fp32 int16] [--rounds 3]

Standard library only. `ready` is the time until `siglip bench engine --interactive` has loaded the checkpoint, started
its threads and run one text, less the time that another such run takes; the files are in the page cache, as `cat`
finds them too. Memory is read from
/proc/PID/status then: VmHWM, and of VmRSS the parts that are its own (RssAnon) and mapped from files (RssFile). The
cache lies in a temporary folder beside the checkpoint and is deleted at the end. Goal: mapped and ready within 1.3 times
the time of reading the packed weights.
"""

import argparse
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

GOAL = 1.3
BLOCK = 1 << 20


def read_seconds(paths):
    """As `cat paths > /dev/null` reads them."""
    begin = time.perf_counter()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(BLOCK):
                pass
    return time.perf_counter() - begin


def start(args, precision, cache):
    """Seconds until ready, and the memory then, in MB."""
    command = [args.siglip, "bench", "engine", "--model", args.model, "--tower", "text", "--batch", "1", "--threads",
               str(args.threads), "--precision", precision, "--interactive"]
    begin = time.perf_counter()
    process = subprocess.Popen(command + (["--cache-dir", str(cache)] if cache else []), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    line = process.stdout.readline()
    seconds = time.perf_counter() - begin
    if line.strip() != "ready":
        raise SystemExit(f"{' '.join(command)}: expected 'ready', got {line!r}")
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    runs = []
    for _ in range(3):
        process.stdin.write("run\n")
        process.stdin.flush()
        runs.append(float(process.stdout.readline()))
    process.stdin.close()
    process.wait()
    return seconds - min(runs), {key: int(re.search(rf"{key}:\s+(\d+)", status).group(1)) // 1024
                     for key in ("VmHWM", "RssAnon", "RssFile")}


def measure(args, precision, folder):
    cache = folder / precision
    weights = sorted(pathlib.Path(args.model).glob("*.safetensors"))
    rows = {"packed in memory": [], "packed into the cache": [], "mapped from the cache": []}
    reads = {"weights": [], "cache": []}
    read_seconds(weights)
    for _ in range(args.rounds):
        for path in cache.glob("*.weights") if cache.exists() else []:
            path.unlink()
        rows["packed in memory"].append(start(args, precision, None))
        rows["packed into the cache"].append(start(args, precision, cache))
        rows["mapped from the cache"].append(start(args, precision, cache))
        reads["weights"].append(read_seconds(weights))
        reads["cache"].append(read_seconds(cache.glob("*.weights")))
    size = sum(path.stat().st_size for path in cache.glob("*.weights"))
    print(f"| {precision} | ready, best s | median s | peak MB | own MB | mapped MB |\n|---|---|---|---|---|---|")
    for name, runs in rows.items():
        seconds, memory = min(runs)
        print(f"| {name} | {seconds:.2f} | {statistics.median(run[0] for run in runs):.2f} | {memory['VmHWM']} | "
              f"{memory['RssAnon']} | {memory['RssFile']} |")
    for name, seconds in reads.items():
        print(f"| reading the {name} | {min(seconds):.2f} | {statistics.median(seconds):.2f} | | | |")
    ratio = min(rows["mapped from the cache"])[0] / min(reads["cache"])
    print(f"{precision}: {size / 1e6:.0f} MB packed; mapped and ready in {ratio:.2f} x the time of reading them, "
          f"goal {GOAL}\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--siglip", default="build/release/src/cli/siglip")
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--precision", nargs="+", default=["fp32", "int16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=pathlib.Path(args.model).resolve().parent) as folder:
        for precision in args.precision:
            measure(args, precision, pathlib.Path(folder))


if __name__ == "__main__":
    main()
