#!/usr/bin/env python3
"""A queueing simulation of the server, and how near it comes to the real one.

    python3 bench/queueing.py check --siglip build/release/src/cli/siglip --model models/demo IMAGES...
    python3 bench/queueing.py load --preprocess-ms 1.6 --batch-ms 1=2660 32=85000 --cores 2 --engine-threads 2

`check` measures what one image and one batch cost (`siglip bench preprocess`, `siglip bench engine`) and what a request
costs beside them (one client), simulates more clients that send one request after the other, and compares with `siglip
bench server` against a real server. Costs are CPU seconds, and cores that other programs took during a run are not there
in the simulation either: the comparison stands on a busy machine too. `load` prints how the time of an answer grows with
the load, for requests that come when they like (a Poisson process).

The simulation: a request is decoded by one of `workers`, then waits for the engine, which takes what waits, at
most 32, as soon as it is free. Decoding asks for one core, a batch for `engine_threads`; if that is more than the `cores`
that there are, each gets its share. Standard library only.
"""

import argparse
import collections
import dataclasses
import json
import os
import random
import resource
import statistics
import time

from serve import run_json, start_server

MAX_BATCH = 32  # of model_repository/siglip_vision_model


@dataclasses.dataclass
class Costs:
    """Seconds on a machine that does nothing else."""
    door: float        # of a request: client, sockets, parsing
    preprocess: float  # of an image
    batch: dict        # items -> seconds of the engine with all its threads
    workers: int       # that decode
    cores: float       # that all of it shares
    engine_threads: int

    def engine(self, items):
        """Seconds of a batch; between two measured sizes, and beyond the last, a straight line."""
        sizes = sorted(self.batch)
        if len(sizes) == 1:
            return self.batch[sizes[0]] * items / sizes[0]
        upper = next((index for index, size in enumerate(sizes) if size >= items), len(sizes) - 1)
        low, high = sizes[max(upper, 1) - 1], sizes[max(upper, 1)]
        return self.batch[low] + (self.batch[high] - self.batch[low]) * (items - low) / (high - low)


@dataclasses.dataclass
class Job:
    """Work in progress: requests of one stage, and the wall seconds that are left with all the cores it asks for."""
    stage: str
    requests: list
    cores: int
    left: float


class Simulation:
    """Requests are the times at which they came."""

    def __init__(self, costs):
        self.costs, self.now = costs, 0.0
        self.jobs, self.doors, self.decoding, self.engine = [], 0, 0, False
        self.to_decode, self.to_embed = collections.deque(), collections.deque()
        self.answers = []  # (came, seconds)
        self.batches = []

    def arrive(self):
        self.jobs.append(Job("door", [self.now], 1, self.costs.door))

    def start_what_can(self):
        while self.to_decode and self.decoding < self.costs.workers:
            self.decoding += 1
            self.jobs.append(Job("decode", [self.to_decode.popleft()], 1, self.costs.preprocess))
        if self.to_embed and not self.engine:
            self.engine = True
            batch = [self.to_embed.popleft() for _ in range(min(MAX_BATCH, len(self.to_embed)))]
            self.batches.append(len(batch))
            self.jobs.append(Job("embed", batch, self.costs.engine_threads, self.costs.engine(len(batch))))

    def finish(self, job):
        """Returns how many requests were answered."""
        self.jobs.remove(job)
        if job.stage == "door":
            self.to_decode += job.requests
        elif job.stage == "decode":
            self.decoding -= 1
            self.to_embed += job.requests
        else:
            self.engine = False
            self.answers += [(came, self.now - came) for came in job.requests]
            return len(job.requests)
        return 0

    def advance(self, until=float("inf")):
        """To the next end of a job, or to `until`; returns how many requests were answered."""
        self.start_what_can()
        speed = min(1.0, self.costs.cores / max(1, sum(job.cores for job in self.jobs)))
        job = min(self.jobs, key=lambda j: j.left, default=None)
        step = until - self.now if job is None else min(job.left / speed, until - self.now)
        for other in self.jobs:
            other.left -= step * speed
        self.now += step
        return self.finish(job) if job is not None and job.left <= 1e-12 else 0


def closed_loop(costs, clients, answers):
    """Clients that send their next request when the last is answered."""
    simulation = Simulation(costs)
    for _ in range(clients):
        simulation.arrive()
    while len(simulation.answers) < answers:
        for _ in range(simulation.advance()):
            simulation.arrive()
    return simulation


def poisson(costs, per_second, answers, seed=1):
    simulation, chance = Simulation(costs), random.Random(seed)
    next_arrival = chance.expovariate(per_second)
    while len(simulation.answers) < answers:
        simulation.advance(next_arrival)
        if simulation.now >= next_arrival:
            simulation.arrive()
            next_arrival += chance.expovariate(per_second)
    return simulation


def capacity(costs):
    """Images per second that no load can exceed: the cores' time by what a full batch's image costs."""
    engine = costs.engine(MAX_BATCH) / MAX_BATCH
    work = costs.door + costs.preprocess + engine * costs.engine_threads
    return min(costs.cores / work, 1 / engine)


def summary(simulation):
    """Of the later half: the first answers come from an empty server."""
    half = len(simulation.answers) // 2
    begin = sum(simulation.answers[half - 1])  # came + seconds
    times = sorted(seconds for _, seconds in simulation.answers[half:])
    return {"images_per_s": len(times) / (simulation.now - begin), "p50_ms": times[len(times) // 2] * 1e3,
            "p99_ms": times[len(times) * 99 // 100] * 1e3, "batch": statistics.mean(simulation.batches)}


def measure_costs(args):
    batch = {}
    for items in (1, 2, 4, 8, 16, 32):
        got = run_json([args.siglip, "bench", "engine", "--model", args.model, "--threads", str(args.threads), "--batch",
                        str(items), "--json", "--seconds", str(args.seconds / 6)])
        batch[items] = got["cpu_s_per_item"] * items / args.threads
    with open(f"{args.model}/preprocessor_config.json", encoding="utf-8") as file:
        size = json.load(file)["size"]["height"]
    pixels = run_json([args.siglip, "bench", "preprocess", "--size", str(size), "--json", "--seconds",
                       str(args.seconds / 6), *args.images])
    cores = os.cpu_count()
    return Costs(0, pixels["best_ms"] / 1e3, batch, cores, cores, args.threads)


def busy_core_seconds():
    """Of all programs since the machine started."""
    with open("/proc/stat", encoding="utf-8") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def drive(args, process, port, clients):
    """What `siglip bench server` says, and CPU seconds of an image, the client's included, and of others in the run."""
    begin, busy = time.monotonic(), busy_core_seconds()
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = run_json([args.siglip, "bench", "server", "--url", f"127.0.0.1:{port}", "--json", "--concurrency", str(clients),
                    "--seconds", str(args.seconds), "--server-pid", str(process.pid), *args.images])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall, images = time.monotonic() - begin, row["images_per_s"] * args.seconds
    client = after.ru_utime + after.ru_stime - child.ru_utime - child.ru_stime
    ours = client + row["server_cpu_s_per_image"] * images
    row["cpu_s"] = ours / images
    row["cores"] = os.cpu_count() - max(0.0, busy_core_seconds() - busy - ours) / wall
    return row


def check(args):
    costs = measure_costs(args)
    process, _, port = start_server(args.siglip, args.model, ["--threads", str(args.threads)])
    try:
        costs.door = max(0.0, drive(args, process, port, 1)["cpu_s"] - costs.preprocess - costs.batch[1] * args.threads)
        rows = [(clients, drive(args, process, port, clients)) for clients in args.concurrency]
    finally:
        process.terminate()
        process.wait()
    print(f"CPU-ms: door {costs.door * 1e3:.2f}, preprocessing {costs.preprocess * 1e3:.2f}, engine by items "
          + ", ".join(f"{items}: {seconds * args.threads * 1e3:.2f}" for items, seconds in costs.batch.items()))
    print("| clients | cores left | images/s: simulated | measured | ratio | p50 ms: simulated | measured | ratio |"
          "\n|---|---|---|---|---|---|---|---|")
    for clients, real in rows:
        simulation = closed_loop(dataclasses.replace(costs, cores=real["cores"]), clients, max(2000, 40 * clients))
        simulated = summary(simulation)
        print(f"| {clients} | {real['cores']:.2f} | {simulated['images_per_s']:.0f} | {real['images_per_s']:.0f} | "
              f"{simulated['images_per_s'] / real['images_per_s']:.2f} | {simulated['p50_ms']:.1f} | {real['p50_ms']:.1f} | "
              f"{simulated['p50_ms'] / real['p50_ms']:.2f} |")


def load(args):
    batch = {int(items): float(ms) / 1e3 for items, ms in (text.split("=") for text in args.batch_ms)}
    costs = Costs(args.door_ms / 1e3, args.preprocess_ms / 1e3, batch, args.cores, args.cores, args.engine_threads)
    full = capacity(costs)
    print(f"capacity {full:.4g} images/s\n\n| load | images/s | mean batch | p50 ms | p99 ms |\n|---|---|---|---|---|")
    for share in args.shares:
        row = summary(poisson(costs, full * share, args.answers))
        print(f"| {share:.0%} | {full * share:.4g} | {row['batch']:.1f} | {row['p50_ms']:.0f} | {row['p99_ms']:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    real = commands.add_parser("check", help="simulation against a real server")
    real.add_argument("images", nargs="+")
    real.add_argument("--siglip", default="build/release/src/cli/siglip")
    real.add_argument("--model", default="models/demo")
    real.add_argument("--threads", type=int, default=1, help="of the engine")
    real.add_argument("--seconds", type=float, default=6, help="of each measurement")
    real.add_argument("--concurrency", type=int, nargs="+", default=[2, 4, 8, 16, 60])
    real.set_defaults(run=check)
    model = commands.add_parser("load", help="answer times by load")
    model.add_argument("--door-ms", type=float, default=0.2)
    model.add_argument("--preprocess-ms", type=float, required=True)
    model.add_argument("--batch-ms", nargs="+", required=True, metavar="ITEMS=MS")
    model.add_argument("--cores", type=int, required=True)
    model.add_argument("--engine-threads", type=int, required=True, help="0: a GPU does the work")
    model.add_argument("--shares", type=float, nargs="+", default=[0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
    model.add_argument("--answers", type=int, default=20000)
    model.set_defaults(run=load)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
