"""A `siglip serve` on free ports, and what /proc and its metrics say of it. Standard library only."""

import os
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """What /proc says of a process, see proc(5)."""

    def __init__(self, pid):
        self.pid = pid

    def rss_bytes(self):
        return int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))


class Server(Process):
    """Runs inside `with`; the log is a file, so that it never blocks the server."""

    def __init__(self, siglip, model, options=(), environment=None):
        self.log = tempfile.TemporaryFile("w+")
        command = [str(siglip), "serve", "--model", str(model), "--http-port", "0", "--grpc-port", "0",
                   "--metrics-port", "0", *map(str, options)]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log,
                                        env={**os.environ, **(environment or {})})
        super().__init__(self.process.pid)
        found = None
        while not found:
            text = self.read_log()
            found = re.search(r"listening http=\S+?:(\d+) grpc=\S+?:(\d+) metrics=\S+?:(\d+)", text)
            if not found and self.process.poll() is not None:
                raise RuntimeError(f"{command} ended with {self.process.returncode}:\n{text}")
            time.sleep(0.05)
        self.http, self.grpc, self.metrics_port = map(int, found.groups())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def read_log(self):
        return os.pread(self.log.fileno(), 1 << 24, 0).decode(errors="replace")

    def terminate(self, timeout=60):
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=timeout)

    def metrics(self):
        """Every sample as {(name, labels as a sorted tuple): value}."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        samples = {}
        for line in text.splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found:
                labels = tuple(sorted(re.findall(r'(\w+)="([^"]*)"', found[2] or "")))
                samples[found[1], labels] = float(found[3])
        return samples


def refusals(before, after, door):
    """(refusals between two readings of the metrics, those that took at most 10 ms)."""
    def change(name, *labels):
        key = name, tuple(sorted((("door", door), *labels)))
        return int(after[key] - before[key])

    name = "siglip_refusal_duration_seconds"
    return change(f"{name}_count"), change(f"{name}_bucket", ("le", "0.01"))


def default_siglip():
    return pathlib.Path(os.environ.get("SIGLIP_BUILD_DIR", "build/release")) / "src/cli/siglip"
