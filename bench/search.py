#!/usr/bin/env python3
"""Search in many rows: `siglip search`, exact and with an index, beside faiss.

    tools/setup/install.sh venv bench
    .venv/bench/bin/python bench/search.py --siglip build/release/src/cli/siglip --rows 1000000 --scratch FOLDER

Rows are synthetic: a Gaussian mixture whose spectrum decays as that of embeddings does. Queries are further draws. One query
at a time; exact searches and faiss take turns, the median of each is printed. The index is built once, with all threads.
Recall: the share of the ten rows of faiss' exact search that are found.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import time

import faiss
import numpy as np

TOP = 10
BLOCK = 50_000


def blocks_of(count, width, clusters, noise, seed):
    """The mixture's centers do not depend on `seed`, its draws do."""
    scale = (1 / np.sqrt(np.arange(1, width + 1))).astype(np.float32)
    centers = np.random.default_rng(7).standard_normal((clusters, width), dtype=np.float32) * scale
    random = np.random.default_rng(seed)
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        yield centers[random.integers(0, clusters, size)] + noise * scale * random.standard_normal(
            (size, width), dtype=np.float32)


def write_rows(path, count, options, seed):
    """Files as `siglip embed` writes them. A finished one is taken as it is."""
    meta = {"dtype": options.dtype, "embedding_size": options.width, "images": count, "texts": 0,
            "checkpoint_sha256": f"synthetic, {options.clusters} clusters, noise {options.noise}, seed {seed}"}
    meta_path = pathlib.Path(f"{path}.meta.json")
    if meta_path.exists() and json.loads(meta_path.read_text()) == meta:
        return
    rows = np.lib.format.open_memmap(path, "w+", options.dtype, (count, options.width), version=(1, 0))
    first = 0
    for block in blocks_of(count, options.width, options.clusters, options.noise, seed):
        rows[first:first + len(block)] = block
        first += len(block)
    rows.flush()
    pathlib.Path(f"{path}.names.txt").write_text("".join(f'"picture-{i:09}.jpg"\n' for i in range(count)))
    meta_path.write_text(json.dumps(meta))


def run_index(options, rows, output):
    """Wall and CPU seconds and peak memory of `siglip index`."""
    start = time.monotonic()
    process = subprocess.Popen([options.siglip, "index", "-q", rows, "-o", output, "--threads", str(max(options.threads))])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit("siglip index failed")
    return {"wall_s": time.monotonic() - start, "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_mb": usage.ru_maxrss / 1024, "bytes": output.stat().st_size}


def bench_search(options, index, queries, threads, *more):
    done = subprocess.run([options.siglip, "bench", "search", index, "--queries", queries, "--top", str(TOP), "--threads",
                           str(threads), "--json", *more], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def time_faiss(index, queries, threads):
    faiss.omp_set_num_threads(threads)
    seconds, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(index.search(query[None], TOP)[1][0])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3, found


def recall(found, truth):
    pairs = list(zip(found, truth))  # the exact searches have fewer queries
    return sum(len(set(a) & set(b)) for a, b in pairs) / (TOP * len(pairs))


class Table:
    """Milliseconds by name and threads; each is the median over the rounds."""

    def __init__(self):
        self.times, self.recalls = {}, {}

    def add(self, name, threads, milliseconds, share):
        self.times.setdefault(name, {}).setdefault(threads, []).append(milliseconds)
        self.recalls[name] = share

    def show(self, threads):
        print(f"| search | recall | {' | '.join(f'ms, {t} thr.' for t in threads)} |")
        print("|---|---|" + "---|" * len(threads))
        for name, times in self.times.items():
            cells = [f"{statistics.median(times[t]):.2f}" if t in times else "" for t in threads]
            print(f"| {name} | {self.recalls[name]:.4f} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--siglip", required=True)
    parser.add_argument("--scratch", type=pathlib.Path, required=True, help="where rows and index are written and kept")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--clusters", type=int, default=20_000)
    parser.add_argument("--noise", type=float, default=0.7)
    parser.add_argument("--ef", type=int, nargs="+", default=[50, 100, 200, 400, 800])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exact-queries", type=int, default=10)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--faiss-hnsw", action="store_true", help="build faiss' graph of the same links too")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    rows_path, queries_path, few_path = (options.scratch / name for name in ("rows.npy", "queries.npy", "few.npy"))
    write_rows(rows_path, options.rows, options, 1)
    write_rows(queries_path, options.queries, options, 2)
    write_rows(few_path, options.exact_queries, options, 2)
    index_path = options.scratch / "rows.index"
    built = run_index(options, rows_path, index_path)

    rows = np.load(rows_path).astype(np.float32, copy=False)
    faiss.normalize_L2(rows)
    queries = np.load(queries_path).astype(np.float32)
    flat = faiss.IndexFlatIP(options.width)
    flat.add(rows)
    peers = {"faiss, exact, float32": flat}
    if options.dtype == "float16":
        peers["faiss, exact, float16"] = faiss.IndexScalarQuantizer(options.width, faiss.ScalarQuantizer.QT_fp16,
                                                                    faiss.METRIC_INNER_PRODUCT)
        peers["faiss, exact, float16"].add(rows)
    del rows
    faiss.omp_set_num_threads(max(options.threads))
    truth = flat.search(queries, TOP)[1]
    graph, graph_s = None, 0.0
    if options.faiss_hnsw:
        graph = faiss.IndexHNSWFlat(options.width, 16, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 200
        start = time.monotonic()
        graph.add(flat.reconstruct_n(0, flat.ntotal))
        graph_s = time.monotonic() - start

    table, opened = Table(), 0.0
    for _ in range(options.rounds):
        for threads in options.threads:
            # The few queries are other draws than the first of the many: the mixture is drawn block by block.
            few = np.load(few_path).astype(np.float32)
            few_truth = flat.search(few, TOP)[1]
            for name, peer in peers.items():
                milliseconds, found = time_faiss(peer, few, threads)
                table.add(name, threads, milliseconds, recall(found, few_truth))
            exact = bench_search(options, rows_path, few_path, threads)
            table.add("siglip, exact", threads, exact["median_ms"], recall(exact["rows"], few_truth))
            for ef in options.ef:
                approximate = bench_search(options, index_path, queries_path, threads, "--ef", str(ef))
                opened = approximate["open_s"]
                table.add(f"siglip, index, ef {ef}", threads, approximate["median_ms"], recall(approximate["rows"], truth))
                if graph is not None:
                    graph.hnsw.efSearch = ef
                    milliseconds, found = time_faiss(graph, queries, threads)
                    table.add(f"faiss, HNSW, ef {ef}", threads, milliseconds, recall(found, truth))

    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; faiss {faiss.__version__}; "
          f"{options.rows:,} rows of {options.width} {options.dtype}; load average {os.getloadavg()[0]:.1f}")
    print(f"siglip index: {built['wall_s']:.0f} s, {built['cpu_s']:.0f} CPU-seconds, peak {built['peak_mb']:.0f} MB with the "
          f"mapped rows, file {built['bytes'] / 1e6:.0f} MB; opened in {opened:.2f} s"
          + (f"; faiss HNSW: {graph_s:.0f} s" if graph is not None else ""))
    table.show(options.threads)


if __name__ == "__main__":
    main()
