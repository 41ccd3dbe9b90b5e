#!/usr/bin/env python3
"""Offers a server several times what it can do, for minutes, over HTTP and gRPC. Says pass or fail; exit code 1 on fail.

    python3 bench/overload.py --model DIR [--siglip PROGRAM] [--minutes 5] [--factor 5] IMAGES...

Standard library only; the load is `siglip bench server`, closed-loop for the capacity, --rate for the overload.

capacity   answers a second of 60 clients that wait for each other's answers, measured before and after the flood: the
           machine may have other work. A flood costs CPU that answers cannot have, in the server and in the generator
           beside it, so a model whose image costs 20 ms and more shows what the server does, and a tiny one what a
           refusal costs.
goodput    answers a second during the flood, its first ten seconds left out, over the lower capacity: at least 95 %
refusals   at most 10 ms, p99, by the server's own clock, from the request's last byte (HTTP: read from the socket;
           gRPC: when grpc++ hands the request over) to the refusal's hand-over: siglip_refusal_duration_seconds.
           The client's p99 is printed beside it: with both on one busy machine it has the scheduler's delays too.
           Every refusal says when to come again.
memory     the resident set grows by less than 5 % and 16 MiB between a quarter and the end of the flood
recovery   when the flood's clients have gone, a new client is accepted within a second; its answer also waits for the
           batch that runs
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time

from server_process import Server, default_siglip, refusals

GOODPUT, REFUSAL_MS, GROWTH, GROWTH_BYTES, RECOVERY_S = 0.95, 10, 0.05, 16 << 20, 1.0
WARM_UP_S = 10


def bench(args, protocol, port, *options, refusable=False):
    """What `siglip bench server` says; its exit code is not looked at, the counts are. None: its first request was refused."""
    run = subprocess.run([args.siglip, "bench", "server", "--json", "--protocol", protocol, "--url", f"127.0.0.1:{port}",
                          *map(str, options), *args.images], capture_output=True, text=True, check=False)
    if not run.stdout and refusable and "Exceeds" in run.stderr:
        return None
    if not run.stdout:
        sys.exit(f"siglip bench server: {run.stderr}")
    if run.returncode:
        print(f"  {run.stderr.strip()}", file=sys.stderr)
    return json.loads(run.stdout)


def capacity(args, protocol, port):
    return bench(args, protocol, port, "--concurrency", args.clients, "--seconds", args.capacity_seconds)["images_per_s"]


def recovery_seconds(args, protocol, port):
    """Until a new client's request was accepted, refusals being tried again at once; until it was answered twice."""
    begin = attempt = time.monotonic()
    while bench(args, protocol, port, "--concurrency", 1, "--seconds", 0.001, refusable=True) is None:
        attempt = time.monotonic()
    return attempt - begin, time.monotonic() - begin


class Watch(threading.Thread):
    """The resident set, each second."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.done, self.rss = server, threading.Event(), []
        self.start()

    def run(self):
        while not self.done.wait(1):
            self.rss.append(self.server.rss_bytes())

    def stop(self):
        self.done.set()
        self.join()
        return self.rss


def flood(args, server, protocol):
    port = server.http if protocol == "http" else server.grpc
    before = capacity(args, protocol, port)
    _, alone = recovery_seconds(args, protocol, port)
    seconds = args.minutes * 60
    first, cpu, watch = server.metrics(), server.cpu_seconds(), Watch(server)
    load = bench(args, protocol, port, "--rate", args.factor * before, "--seconds", seconds)
    accepted, answered = recovery_seconds(args, protocol, port)
    rss, cpu = watch.stop(), server.cpu_seconds() - cpu
    refused, in_time = refusals(first, server.metrics(), protocol)
    after = capacity(args, protocol, port)

    answers = load["answers_in_s"][WARM_UP_S:] or load["answers_in_s"]
    goodput = sum(answers) / len(answers)
    quarter = len(rss) // 4
    start, end = statistics.median(rss[quarter:quarter + 5]), statistics.median(rss[-5:])
    row = {"protocol": protocol, "capacity": before, "capacity_after": after, "offered": load["rate"], "seconds": seconds,
           "goodput": goodput, "goodput_share": goodput / min(before, after), "refused": refused,
           "refused_share_in_10_ms": in_time / refused if refused else 0, "client_refusal_p99_ms": load["refusal_p99_ms"],
           "without_retry": load["without_retry"], "failures": load["failures"], "no_connection": load["no_connection"],
           "p50_ms": load["p50_ms"], "p99_ms": load["p99_ms"], "rss_mb": [start / 1e6, end / 1e6],
           "accepted_s": accepted, "answered_s": answered, "alone_s": alone, "server_cpu_s": cpu, "generator_cpu_s": load["cpu_s"]}
    row["checks"] = {
        "goodput": row["goodput_share"] >= GOODPUT,
        "refusals in 10 ms": row["refused_share_in_10_ms"] >= 0.99,
        "refusals say when to come again": refused > 0 and not load["without_retry"],
        "nothing else fails": not load["failures"],
        "memory is flat": end - start < max(GROWTH * start, GROWTH_BYTES),
        "recovery": accepted < RECOVERY_S,
    }
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--siglip", default=str(default_siglip()))
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--minutes", type=float, default=5, help="of each protocol")
    parser.add_argument("--factor", type=float, default=5)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--capacity-seconds", type=float, default=20)
    parser.add_argument("--protocols", nargs="+", default=["http", "grpc"], choices=["http", "grpc"])
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of siglip serve; last")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    rows = []
    with Server(args.siglip, args.model, args.options) as server:
        for protocol in args.protocols:
            row = flood(args, server, protocol)
            rows.append(row)
            if args.json:
                continue
            print(f"{protocol}: capacity {row['capacity']:.1f}/s before, {row['capacity_after']:.1f}/s after; "
                  f"{row['offered']:.1f}/s offered for {row['seconds']:.0f} s\n"
                  f"  goodput {row['goodput']:.1f}/s, {row['goodput_share']:.1%} of the lower capacity; answers p50 "
                  f"{row['p50_ms']:.0f} ms, p99 {row['p99_ms']:.0f} ms\n"
                  f"  {row['refused']} refused, {row['refused_share_in_10_ms']:.2%} within 10 ms; the client's p99 "
                  f"{row['client_refusal_p99_ms']:.1f} ms; {row['without_retry']} without a time, {row['failures']} failures\n"
                  f"  resident {row['rss_mb'][0]:.0f} -> {row['rss_mb'][1]:.0f} MB; accepted again after "
                  f"{row['accepted_s']:.2f} s, answered after {row['answered_s']:.2f} s (alone {row['alone_s']:.2f} s); CPU of the server {row['server_cpu_s']:.0f} s, "
                  f"of the generator {row['generator_cpu_s']:.0f} s", flush=True)
            for check, good in row["checks"].items():
                print(f"  {'pass' if good else 'FAIL'}  {check}", flush=True)
    if args.json:
        print(json.dumps(rows))
    sys.exit(not all(good for row in rows for good in row["checks"].values()))


if __name__ == "__main__":
    main()
