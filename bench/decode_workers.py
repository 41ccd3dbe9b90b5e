#!/usr/bin/env python3
"""What decoding in worker processes costs: CPU seconds per image and throughput, in process against workers.

    .venv/light/bin/python bench/decode_workers.py --siglip build/release/src/cli/siglip --model DIR

Needs Pillow and scikit-learn, whose two photographs are the pictures: as 500x375 and 4000x3000 JPEGs (quality 90), or
whatever files are given. Two servers run all the time, one with --decode-workers off and one with workers; `siglip bench
server` loads them in turns, in an order that changes. CPU seconds are those of the server and all its workers, from
/proc; the best round of each counts, as other programs only add. Beside it stands what `siglip bench preprocess` says of
the same pictures without any server. Goal: workers cost at most 1.05 times the CPU of in process.
"""

import argparse
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile

GOAL = 1.05
TICKS = os.sysconf("SC_CLK_TCK")


def write_pictures(folder, width, height):
    from PIL import Image
    from sklearn.datasets import load_sample_images

    paths = []
    for index, pixels in enumerate(load_sample_images().images):
        path = folder / f"{width}x{height}-{index}.jpg"
        Image.fromarray(pixels).resize((width, height)).save(path, quality=90)
        paths.append(str(path))
    return paths


class Server:
    def __init__(self, args, workers):
        self.process = subprocess.Popen(
            [args.siglip, "serve", "--model", args.model, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0",
             "--decode-workers", workers, *args.serve_options], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            found = re.search(r"listening http=\S+?:(\d+) grpc=\S+?:(\d+)", line)
            if found:
                self.ports = {"http": found.group(1), "grpc": found.group(2)}
                return
        sys.exit("the server did not start")

    def pids(self):
        children = []
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            children += (task / "children").read_text().split()
        return [str(self.process.pid), *children]

    def cpu_seconds(self):
        """Of the server, its workers, and those that it has had."""
        ticks = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += sum(int(field) for field in fields[11:15 if pid == str(self.process.pid) else 13])
        return ticks / TICKS

    def load(self, args, pictures):
        before = self.cpu_seconds()
        result = subprocess.run(
            [args.siglip, "bench", "server", "--protocol", args.protocol, "--model-name", args.model_name, "--url",
             f"127.0.0.1:{self.ports[args.protocol]}", "--json", "--concurrency", str(args.concurrency), "--seconds",
             str(args.seconds), *pictures], capture_output=True, text=True, check=True)
        run = json.loads(result.stdout)
        if run["failures"]:
            sys.exit(f"{run['failures']} requests failed")
        return run | {"cpu_ms": (self.cpu_seconds() - before) / run["answers"] * 1e3}

    def stop(self):
        self.process.terminate()
        self.process.wait()


def measure(args, servers, pictures):
    runs = {name: [] for name in servers}
    for _ in range(args.rounds):
        for name in random.sample(list(servers), len(servers)):
            runs[name].append(servers[name].load(args, pictures))
    library = subprocess.run([args.siglip, "bench", "preprocess", "--size", str(args.size), "--json", "--seconds", "1",
                              *pictures], capture_output=True, text=True, check=True)
    return {"library_ms": json.loads(library.stdout)["best_ms"],
            **{name: {"cpu_ms": min(run["cpu_ms"] for run in of),
                      "images_per_s": statistics.median(run["images_per_s"] for run in of),
                      "p50_ms": min(run["p50_ms"] for run in of)} for name, of in runs.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", help="instead of the two sizes")
    parser.add_argument("--siglip", default="build/release/src/cli/siglip")
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--model-name", default="embed_image")
    parser.add_argument("--protocol", choices=["grpc", "http"], default="grpc")
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="the checkpoint's image size")
    parser.add_argument("--serve-options", nargs=argparse.REMAINDER, default=[], help="last: for both servers")
    args = parser.parse_args()

    passed = True
    servers = {name: Server(args, workers) for name, workers in (("in process", "off"), ("workers", args.workers))}
    try:
        with tempfile.TemporaryDirectory() as folder:
            sets = {"given": args.pictures} if args.pictures else {
                f"{width}x{height}": write_pictures(pathlib.Path(folder), width, height)
                for width, height in ((500, 375), (4000, 3000))}
            for name, pictures in sets.items():
                rows = measure(args, servers, pictures)
                print(f"{name}: preprocessing alone {rows['library_ms']:.3f} ms")
                for kind in servers:
                    print(f"  {kind:<11}{rows[kind]['cpu_ms']:9.3f} CPU-ms per image {rows[kind]['images_per_s']:9.1f} "
                          f"images/s   p50 {rows[kind]['p50_ms']:.1f} ms")
                ratio = rows["workers"]["cpu_ms"] / rows["in process"]["cpu_ms"]
                passed &= ratio <= GOAL
                print(f"  CPU {ratio:.3f}, throughput "
                      f"{rows['workers']['images_per_s'] / rows['in process']['images_per_s']:.3f} of in process "
                      f"(goal of CPU: {GOAL}) {'pass' if ratio <= GOAL else 'FAIL'}")
    finally:
        for server in servers.values():
            server.stop()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
