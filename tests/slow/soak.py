#!/usr/bin/env python3
"""Everything that clients do, at once and for hours, against one server; says what grew. Exit code 1 if something did.

    .venv/clients/bin/python tests/slow/soak.py [--siglip PROGRAM] [--minutes 10 | --hours H] [--json FILE]

Threads of clients, each a kind of traffic chosen at random with a seed of its own, over HTTP and gRPC: images and texts
whose answers must be bit-equal to the first ones, streams, bad images, bad requests, bodies over the limit, calls whose
client hangs up or whose deadline passes, connections that are reset, models that are loaded and unloaded, metrics,
statistics and settings. Each kind lists what it may get; anything else is a failure.

It fails if
- an answer was wrong, or an error is not one that its kind may get, or the server ended or does not drain with exit code 0,
- the resident set's median grew between the second and the last quarter by more than --growth and 16 MiB,
  The server has one malloc arena: with one per thread, glibc's default, the resident set wanders by tens of MB and
  hides a leak,
- descriptors or threads are more, when the clients have gone, than when the first ones had gone.

For a build with sanitizers: --siglip build/dev/src/cli/siglip (or build/tsan/...), with ASAN_OPTIONS=quarantine_size_mb=16
or --growth 1, as freed memory is kept by them.
"""

import argparse
import collections
import json
import pathlib
import random
import shutil
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
import urllib.request

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from server_process import Server, default_siglip  # noqa: E402

PICTURES = [path.read_bytes() for path in sorted((ROOT / "data/demo/examples").iterdir())]
TEXTS = ["a photo of seven", "a red circle", "ein Bild", "x" * 500, ""]
THREADS = 12
GROWTH_BYTES = 16 << 20
SAMPLE_S = 2
MODULES = {"http": httpclient, "grpc": grpcclient}


def tensor(module, name, values):
    data = np.array([value if isinstance(value, bytes) else value.encode() for value in values], dtype=object)
    made = module.InferInput(name, [len(values), 1], "BYTES")
    made.set_data_from_numpy(data.reshape(-1, 1))
    return [made]


class Client(threading.Thread):
    """One thread of traffic."""

    def __init__(self, server, seed, expected, report, stop, end):
        super().__init__(daemon=True)
        self.server, self.choose, self.expected, self.report, self.stop, self.end = (
            server, random.Random(seed), expected, report, stop, end)
        self.urls = {"http": f"127.0.0.1:{server.http}", "grpc": f"127.0.0.1:{server.grpc}"}
        self.protocol, self.client = None, None

    def run(self):
        kinds = [name for name, (weight, _) in KINDS.items() for _ in range(weight)]
        while not self.stop.is_set() and time.monotonic() < self.end:
            kind = self.choose.choice(kinds)
            if self.client is None or self.choose.random() < 0.02:
                self.connect()
            begin = time.monotonic()
            try:
                outcome = KINDS[kind][1](self)
            except Exception as error:  # pylint: disable=broad-exception-caught
                outcome = f"FAILED {type(error).__name__}: {str(error)[:200]}"
                self.connect()
            self.report.add(f"{kind}, {self.protocol}", outcome, time.monotonic() - begin)
        self.disconnect()

    def connect(self):
        self.disconnect()
        self.protocol = self.choose.choice(["http", "grpc"])
        self.client = MODULES[self.protocol].InferenceServerClient(self.urls[self.protocol])

    def disconnect(self):
        if self.client is not None:
            self.client.close()
            self.client = None

    def infer(self, model, name, values, **options):
        answer = self.client.infer(model, tensor(MODULES[self.protocol], name, values), **options)
        return answer.as_numpy("EMBEDDING")

    def refused(self, call, *texts):
        """Calls; "refused" if the error has one of the texts."""
        try:
            call()
        except InferenceServerException as error:
            if any(text in str(error) for text in texts):
                return "refused"
            raise
        return "FAILED not refused"

    # Kinds of traffic. Each returns what happened.

    def image(self):
        index = self.choose.randrange(len(PICTURES))
        same = np.array_equal(self.infer("embed_image", "INPUT_IMAGE", [PICTURES[index]])[0], self.expected[0][index])
        return "answered" if same else "FAILED another embedding"

    def images(self):
        chosen = self.choose.choices(range(len(PICTURES)), k=self.choose.choice([2, 9, 33, 60]))
        rows = self.infer("embed_image", "INPUT_IMAGE", [PICTURES[index] for index in chosen])
        same = np.array_equal(rows, np.stack([self.expected[0][index] for index in chosen]))
        return "answered" if same else "FAILED another embedding"

    def text(self):
        index = self.choose.randrange(len(TEXTS))
        same = np.array_equal(self.infer("embed_text", "INPUT_TEXT", [TEXTS[index]])[0], self.expected[1][index])
        return "answered" if same else "FAILED another embedding"

    def bad_image(self):
        picture = self.choose.choice(PICTURES)
        bad = self.choose.choice([b"", b"no image", picture[:len(picture) // 2], bytes(1000)])
        return self.refused(lambda: self.infer("embed_image", "INPUT_IMAGE", [bad]), "image", "damaged", "PNG", "JPEG")

    def bad_request(self):
        wrong = self.choose.choice([("nope", "INPUT_IMAGE", 1), ("embed_image", "INPUT_TEXT", 1), ("embed_text", "INPUT_TEXT", 61)])
        model, name, count = wrong
        return self.refused(lambda: self.infer(model, name, ["x"] * count), "unknown model", "unexpected", "batch-size", "expected")

    def huge(self):
        """Over the limit of a request; its connection is closed, sometimes while it still sends."""
        try:
            self.infer("embed_image", "INPUT_IMAGE", [bytes(70 << 20)])
        except (InferenceServerException, OSError):
            self.connect()
            return "refused"
        except Exception as error:  # geventhttpclient's own, for a connection that is closed
            if "Connection" not in f"{type(error)}{error}" and "closed" not in str(error):
                raise
            self.connect()
            return "refused"
        return "FAILED not refused"

    def large(self):
        """30 MB that are no image: buffers grow and are given back."""
        return self.refused(lambda: self.infer("embed_image", "INPUT_IMAGE", [bytes(30 << 20)]), "image")

    def timed_out(self):
        options = {"client_timeout": 0.002} if self.protocol == "grpc" else {"timeout": 100}
        try:
            self.infer("embed_image", "INPUT_IMAGE", [self.choose.choice(PICTURES)] * 20, **options)
        except InferenceServerException as error:
            if "Deadline" in str(error) or "timeout" in str(error):
                return "timed out"
            raise
        return "answered"

    def stream(self):
        """Requests over one stream, half of them abandoned."""
        got, done = [], threading.Event()
        count = self.choose.choice([1, 5, 20])

        def on_answer(result, error):
            got.append(error if error else result.as_numpy("EMBEDDING")[0])
            if len(got) == count:
                done.set()

        client = grpcclient.InferenceServerClient(self.urls["grpc"])
        client.start_stream(on_answer)
        for _ in range(count):
            client.async_stream_infer("embed_image", tensor(grpcclient, "INPUT_IMAGE", [PICTURES[0]]))
        abandoned = self.choose.random() < 0.5
        if not abandoned:
            done.wait(60)
        client.stop_stream(cancel_requests=abandoned)
        client.close()
        if abandoned:
            return "hung up"
        same = len(got) == count and all(isinstance(row, np.ndarray) and np.array_equal(row, self.expected[0][0]) for row in got)
        return "answered" if same else f"FAILED {len(got)} of {count}: {got[0] if got else None}"

    def hang_up(self):
        """A request over a plain socket, left at a random moment: closed or reset."""
        connection = socket.create_connection(("127.0.0.1", self.server.http))
        body = self.choose.choice(PICTURES)
        request = (f"POST /v2/models/embed_image/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 0\r\n"
                   f"Content-Length: {len(body)}\r\n\r\n").encode() + body
        connection.sendall(request[:self.choose.randint(1, len(request))])
        time.sleep(self.choose.random() * 0.01)
        if self.choose.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        return "hung up"

    def load(self):
        """A model of its own, so that no other request needs it; others may unload it meanwhile."""
        for call in (self.client.load_model, self.client.unload_model):
            try:
                call("soak_text")
            except InferenceServerException as error:
                if "soak_text" not in str(error):
                    raise
        return "answered"

    def ask(self):
        self.client.get_inference_statistics()
        self.client.get_server_metadata()
        self.client.get_model_config("embed_image")
        self.client.update_trace_settings(settings={"trace_rate": str(self.choose.randint(1, 1000))})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.metrics_port}/metrics", timeout=60) as answer:
            answer.read()
        # While a model is being loaded the server is not ready, as with Triton.
        return "answered" if self.client.is_server_ready() else "not ready"


KINDS = {"image": (24, Client.image), "images": (4, Client.images), "text": (12, Client.text), "stream": (3, Client.stream),
         "bad image": (6, Client.bad_image), "bad request": (4, Client.bad_request), "huge": (1, Client.huge),
         "large": (1, Client.large), "timed out": (3, Client.timed_out), "hang up": (8, Client.hang_up),
         "load, unload": (1, Client.load), "ask": (2, Client.ask)}


class Report:
    """What happened, by kind. Thread-safe."""

    def __init__(self):
        self.lock = threading.Lock()
        self.outcomes = collections.defaultdict(collections.Counter)
        self.times = collections.defaultdict(list)
        self.samples = []

    def add(self, kind, outcome, seconds):
        with self.lock:
            self.outcomes[kind][outcome] += 1
            self.times[kind].append(seconds)

    def failures(self):
        return [f"{kind}: {outcome} ({count} times)" for kind, counts in self.outcomes.items()
                for outcome, count in counts.items() if outcome.startswith("FAILED")]


def repository(folder):
    shutil.copytree(ROOT / "model_repository", folder, dirs_exist_ok=True)
    shutil.copytree(folder / "siglip_text", folder / "soak_text")
    config = folder / "soak_text/config.pbtxt"
    config.write_text(config.read_text().replace('"siglip_text"', '"soak_text"'))
    for model in folder.iterdir():
        (model / "1").mkdir(exist_ok=True)
    return folder


def crowd(server, expected, report, seed, seconds):
    """Runs THREADS clients for so long, and samples the server meanwhile."""
    stop, end = threading.Event(), time.monotonic() + seconds
    threads = [Client(server, seed + i, expected, report, stop, end) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    begin = time.monotonic()
    while time.monotonic() < end and server.process.poll() is None:
        time.sleep(SAMPLE_S)
        report.samples.append((time.monotonic() - begin, server.rss_bytes(), server.descriptors(), server.threads()))
    stop.set()
    for thread in threads:
        thread.join(timeout=120)
        if thread.is_alive():
            report.add("client", "FAILED a request was never answered", 0)


def settled(server):
    """(descriptors, threads) once nobody is connected: the least within some seconds."""
    found = []
    for _ in range(30):
        time.sleep(0.2)
        found.append((server.descriptors(), server.threads()))
    return min(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--siglip", default=str(ROOT / default_siglip()))
    parser.add_argument("--model", default=str(ROOT / "models/demo"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hours", type=float, help="in place of --minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth", type=float, default=0.05, help="of the resident set, as a share")
    parser.add_argument("--json", type=pathlib.Path, help="the report, with all samples")
    args = parser.parse_args()
    seconds = args.hours * 3600 if args.hours else args.minutes * 60

    report, problems = Report(), []
    with tempfile.TemporaryDirectory() as folder:
        options = ["--model-repository", repository(pathlib.Path(folder)), "--model-control-mode", "explicit", "--load-model", "*"]
        with Server(args.siglip, args.model, options, {"MALLOC_ARENA_MAX": "1"}) as server:
            with httpclient.InferenceServerClient(f"127.0.0.1:{server.http}") as client:
                expected = [[client.infer(model, tensor(httpclient, name, [value])).as_numpy("EMBEDDING")[0] for value in values]
                            for model, name, values in (("embed_image", "INPUT_IMAGE", PICTURES),
                                                        ("embed_text", "INPUT_TEXT", TEXTS))]
            crowd(server, expected, Report(), args.seed + 1000, min(30, seconds / 10))  # warm: pools, arenas, caches
            before = settled(server)
            crowd(server, expected, report, args.seed, seconds)
            if server.process.poll() is not None:
                problems.append(f"the server ended with {server.process.returncode}:\n{server.read_log()[-4000:]}")
            else:
                after = settled(server)
                if after > (before[0] + 4, before[1] + 4):
                    problems.append(f"descriptors, threads: {before} became {after}")
                code = server.terminate()
                if code != 0:
                    problems.append(f"SIGTERM: exit code {code}:\n{server.read_log()[-4000:]}")

    problems += report.failures()
    quarters = [report.samples[i * len(report.samples) // 4:(i + 1) * len(report.samples) // 4] for i in range(4)]
    rss = [statistics.median(sample[1] for sample in quarter) for quarter in quarters]
    if rss[3] - rss[1] > max(args.growth * rss[1], GROWTH_BYTES):
        problems.append(f"the resident set grew from {rss[1] / 1e6:.0f} to {rss[3] / 1e6:.0f} MB")
    requests = sum(sum(counts.values()) for counts in report.outcomes.values())
    print(f"{seconds / 60:.0f} minutes, {requests} requests of {THREADS} clients\n"
          f"resident MB by quarter: {', '.join(f'{value / 1e6:.0f}' for value in rss)}; "
          f"at most {max(sample[1] for sample in report.samples) / 1e6:.0f}\n"
          f"descriptors, threads without clients: {before} -> {after if 'after' in locals() else None}; with: at most "
          f"{max(sample[2] for sample in report.samples)}, {max(sample[3] for sample in report.samples)}\n\n"
          f"| traffic | requests | outcomes | p50 ms | p99 ms |\n|---|---|---|---|---|")
    for kind in sorted(report.outcomes):
        times = sorted(report.times[kind])
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes[kind].items()))
        print(f"| {kind} | {len(times)} | {outcomes} | {1e3 * times[len(times) // 2]:.1f} | "
              f"{1e3 * times[int(len(times) * 0.99)]:.1f} |")
    if args.json:
        args.json.write_text(json.dumps({"seconds": seconds, "rss_quarters": rss, "samples": report.samples,
                                         "outcomes": report.outcomes, "problems": problems}))
    for problem in problems:
        print(f"FAIL {problem}")
    print("FAIL" if problems else "pass")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
