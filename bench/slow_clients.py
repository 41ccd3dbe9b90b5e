#!/usr/bin/env python3
"""A thousand slow, silent and vanishing clients beside 60 normal ones. Says pass or fail; exit code 1 on fail.

    python3 bench/slow_clients.py --model DIR [--siglip PROGRAM] [--connections 1000] [--rounds 4] IMAGES...

Rounds with and without the slow clients take turns; in each, `siglip bench server` measures the normal ones. Passes if
their p99 with is at most 1.5 times that without (medians over the rounds), no normal request fails, and when the slow
clients have gone the server has the descriptors that it had before. Standard library only. The slow ones live in a
process of their own:

head      a byte of a request's header each second
body      a header that declares 60 MB, then a byte each second
idle      one request, then nothing on an open connection
unread    requests whose answers are never read
reset     a connection that is reset in the middle of a body, five times a second each
grpc_idle   HTTP/2 settings, then nothing
grpc_body   a call whose message comes a byte each second

Connections that the server closes are opened anew: there are always as many.
"""

import argparse
import collections
import json
import multiprocessing
import resource
import socket
import statistics
import struct
import subprocess
import sys
import time

import http2_frames as h2
from server_process import Server, default_siglip

RATIO = 1.5
KINDS = ("head", "body", "idle", "unread", "reset", "grpc_idle", "grpc_body")
BEAT = {"reset": 0.2}  # seconds between two bytes; 1 otherwise
HEAD = b"POST /v2/models/embed_image/infer HTTP/1.1\r\nHost: localhost\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Slow:
    """One slow client; `step` is called once in each beat."""

    def __init__(self, kind, ports):
        self.kind, self.ports, self.socket, self.sent, self.received = kind, ports, None, 0, b""

    def open(self):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if self.kind == "unread":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.socket.connect_ex(("127.0.0.1", self.ports[self.kind.startswith("grpc")]))
        self.sent, self.received = 0, b""

    def close(self, reset=False):
        if self.socket is not None:
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()
            self.socket = None

    def script(self):
        """The bytes of the next beat; None: the client resets."""
        first = self.sent == 0
        match self.kind:
            case "head":
                return HEAD if first else b"a: b\r\n"[(self.sent - 1) % 6:][:1]
            case "body":
                return HEAD + b"Content-Length: 60000000\r\n\r\n" if first else b"x"
            case "idle":
                return LIVE if first else b""
            case "unread":
                return LIVE.replace(b"/v2/health/live", b"/v2/models/stats") * (20 if first else 1)
            case "reset":
                return HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * 50000 if first else None
            case "grpc_idle":
                return h2.open_connection() if first else b""
            case _:
                head = h2.open_connection() + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.grpc_head())
                begin = b"\0" + struct.pack(">I", 1 << 20)
                return head + h2.frame(h2.DATA, 0, 1, begin) if first else h2.frame(h2.DATA, 0, 1, b"x")

    def step(self):
        """True if the server ended it."""
        if self.socket is None:
            self.open()
            return False
        try:
            if self.kind != "unread" and self.sent:
                try:
                    more = self.socket.recv(65536)
                    if not more:
                        self.close()
                        return True
                    if self.kind.startswith("grpc"):
                        answer, self.received, _ = h2.acknowledge(self.received + more)
                        self.socket.sendall(answer)
                except BlockingIOError:
                    pass
            data = self.script()
            if data is None:
                self.close(reset=True)
                return False
            if data:
                self.socket.send(data)
            self.sent += 1
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return True
        return False


def be_slow(kinds, count, ports, ready, stop, ended):
    """The slow clients' process."""
    soft_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_hard[1], soft_hard[1]))
    clients = [Slow(kinds[i % len(kinds)], ports) for i in range(count)]
    due = [time.monotonic() + i / count for i in range(count)]
    counts = collections.Counter()
    while not stop.is_set():
        now = time.monotonic()
        for i, client in enumerate(clients):
            if due[i] <= now:
                counts[client.kind] += client.step()
                due[i] += BEAT.get(client.kind, 1)
        if time.monotonic() > due[0] and all(client.sent or client.socket for client in clients):
            ready.set()
        time.sleep(0.01)
    for client in clients:
        client.close()
    ended.put(dict(counts))


def normal(args, protocol, port):
    run = subprocess.run([args.siglip, "bench", "server", "--json", "--protocol", protocol, "--url", f"127.0.0.1:{port}",
                          "--concurrency", str(args.clients), "--seconds", str(args.seconds), *args.images],
                         capture_output=True, text=True, check=False)
    if not run.stdout:
        sys.exit(f"siglip bench server: {run.stderr}")
    return json.loads(run.stdout)


def measure(args, server, protocol, kinds):
    """One round beside slow clients of these kinds; none: without. Also how many of them the server ended."""
    port = server.http if protocol == "http" else server.grpc
    if not kinds:
        return normal(args, protocol, port), {}
    ready, stop, ended = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Queue()
    process = multiprocessing.Process(target=be_slow, daemon=True, args=(
        kinds, args.connections, (server.http, server.grpc), ready, stop, ended))
    process.start()
    ready.wait(60)
    result = normal(args, protocol, port)
    result["descriptors"] = server.descriptors()
    result["rss_mb"] = server.rss_bytes() / 1e6
    stop.set()
    counts = ended.get(timeout=60)
    process.join()
    return result, counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--siglip", default=str(default_siglip()))
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=15, help="of a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    rows, good = [], True
    with Server(args.siglip, args.model) as server:
        descriptors = server.descriptors()
        for protocol in ("http", "grpc"):
            runs, ended = {False: [], True: []}, collections.Counter()
            for _ in range(args.rounds):
                for slow in (False, True):
                    result, counts = measure(args, server, protocol, args.kinds if slow else ())
                    runs[slow].append(result)
                    ended.update(counts)
            p99 = {slow: statistics.median(run["p99_ms"] for run in results) for slow, results in runs.items()}
            failures = sum(run["failures"] for results in runs.values() for run in results)
            for _ in range(100):  # what is closed is noticed by the server's threads
                left = server.descriptors() - descriptors
                if left <= 8:
                    break
                time.sleep(0.1)
            row = {"protocol": protocol, "p99_ms": p99[False], "p99_with_slow_ms": p99[True],
                   "ratio": p99[True] / p99[False], "failures": failures, "ended_by_server": dict(ended),
                   "descriptors_with_slow": max(run["descriptors"] for run in runs[True]),
                   "rss_mb_with_slow": max(run["rss_mb"] for run in runs[True]), "descriptors_left": left,
                   "images_per_s": [statistics.median(run["images_per_s"] for run in runs[slow]) for slow in (False, True)]}
            rows.append(row)
            checks = {f"p99 within {RATIO}x": row["ratio"] <= RATIO, "no normal request fails": not failures,
                      "descriptors are given back": left <= 8}
            good = good and all(checks.values())
            if not args.json:
                print(f"{protocol}: p99 {p99[False]:.1f} ms without, {p99[True]:.1f} ms with {args.connections} slow clients: "
                      f"{row['ratio']:.2f}x; {row['images_per_s'][0]:.0f} and {row['images_per_s'][1]:.0f} images/s; "
                      f"{row['descriptors_with_slow']} descriptors, {row['rss_mb_with_slow']:.0f} MB; ended by the server: "
                      f"{dict(ended)}")
                for check, passed in checks.items():
                    print(f"  {'pass' if passed else 'FAIL'}  {check}", flush=True)
    if args.json:
        print(json.dumps(rows))
    sys.exit(not good)


if __name__ == "__main__":
    main()
