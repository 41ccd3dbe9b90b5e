#!/usr/bin/env python3
"""Speed against another commit: builds both, measures in pairs, says what differs by more than the noise.

    .venv/oracle/bin/python bench/compare.py main                    the working tree against main
    .venv/oracle/bin/python bench/compare.py v0.1 HEAD --pairs 30    two commits

BASE (and HEAD, if given) is checked out as a git worktree in build/compare and built there; the working tree is built in
build/PRESET. Benches: engine (a few layers of base and so400m, each tower and precision), preprocess (a small JPEG and
one of 12 megapixels), gemm (products of so400m). In each pair both sides run in processes of their own, in an order that
is drawn; a side's value is the least of a few runs. A bench that only one side has is left out.

Printed: the ratio of the least values, the median ratio of the pairs (above 1: slower than BASE), and the interval of the
sign test around it, which makes no assumption about the noise: at most 5 % is the chance that any of the intervals misses
its true median. Exit code 1 if a bench is slower by more than --tolerance and its interval excludes 1.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
ERROR_RATE = 0.05  # of all intervals together
# Of tools/make_random_checkpoint.py, and layers: enough that the layers are what is timed.
MODELS = {"base-224": 3, "so400m": 1}
# A POSIX expression.
GEMM_FILTER = "BM_Gemm(Int16)?/m:729/n:(3456|1152|4304)/k:(1152|4304)/threads:[0-9]+/"
PRODUCT_SECONDS = 0.1
ENGINE_RUNS = 5
PREPROCESS_SECONDS = 0.3


def median_interval(values, error_rate):
    """The shortest interval between order statistics that covers the median of what `values` were drawn from, but for a
    chance of at most `error_rate`; infinite if the values are too few for that. (Rank k is too high if fewer than k values
    fall below the median: a tail of the binomial distribution with p = 1/2.)"""
    ordered, count = sorted(values), len(values)
    rank, tail = 0, 0.0
    while rank < count // 2:
        tail += math.comb(count, rank) / 2**count
        if 2 * tail > error_rate:
            break
        rank += 1
    if rank == 0:
        return -math.inf, math.inf
    return ordered[rank - 1], ordered[count - rank]


@dataclasses.dataclass
class Verdict:
    name: str
    base_least: float
    head_least: float
    median_ratio: float
    low: float
    high: float

    @property
    def differs(self):
        """By more than the noise."""
        return self.low > 1 or self.high < 1

    def is_slower(self, tolerance):
        return self.low > 1 and self.median_ratio > 1 + tolerance


def judge(pairs, error_rate):
    """A Verdict for each name of {name: [(base seconds, head seconds)]}; they share `error_rate`."""
    verdicts = []
    for name, values in pairs.items():
        ratios = [head / base for base, head in values]
        low, high = median_interval(ratios, error_rate / len(pairs))
        verdicts.append(Verdict(name, min(base for base, _ in values), min(head for _, head in values),
                                statistics.median(ratios), low, high))
    return verdicts


def report(verdicts, tolerance):
    lines = ["| bench | base, best s | head, best s | ratio of best | median ratio | interval | |", "|---|---|---|---|---|---|---|"]
    for one in verdicts:
        word = ("SLOWER" if one.is_slower(tolerance) else "within the noise" if not one.differs
                else "faster" if one.high < 1 else "slower, within the tolerance")
        lines.append(f"| {one.name} | {one.base_least:.4g} | {one.head_least:.4g} | {one.head_least / one.base_least:.3f} | "
                     f"{one.median_ratio:.3f} | {one.low:.3f} .. {one.high:.3f} | {word} |")
    return "\n".join(lines)


@dataclasses.dataclass
class Side:
    """A build of one of the two versions."""

    build: pathlib.Path

    def path(self, program):
        return str(self.build / "src" / program)


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], text=True, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{(done.stderr or '')[-2000:]}")
    return done.stdout


def check_out(commit, name):
    """A worktree of `commit` in build/compare."""
    folder = ROOT / "build/compare" / name
    found = run("git", "-C", ROOT, "rev-parse", "--verify", commit + "^{commit}", capture_output=True).strip()
    run("git", "-C", ROOT, "worktree", "prune")
    if folder.exists():
        run("git", "-C", folder, "checkout", "--quiet", "--detach", "--force", found)
    else:
        run("git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", folder, found)
    return folder


def build(folder, preset):
    run("cmake", "--preset", preset, cwd=folder, capture_output=True)
    run("cmake", "--build", "--preset", preset, "--target", "siglip", "gemm_bench", cwd=folder, stdout=sys.stderr)
    return Side(folder / "build" / preset)


def engine_seconds(side, model, tower, precision, threads):
    command = [side.path("cli/siglip"), "bench", "engine", "--model", model, "--tower", tower, "--precision", precision,
               "--threads", str(threads), "--interactive"]
    answers = run(*command, input="run\n" * (ENGINE_RUNS + 1), capture_output=True).split()
    return min(float(answer) for answer in answers[2:])  # after "ready" and a run that warms up


def sample_engine(side, args):
    return {f"engine {pathlib.Path(model).name} {tower} {precision}":
                engine_seconds(side, model, tower, precision, args.threads)
            for model in args.models for tower in ("vision", "text") for precision in args.precisions}


def sample_preprocess(side, args):
    values = {}
    for path in args.jpegs:
        command = [side.path("cli/siglip"), "bench", "preprocess", "--json", "--seconds", PREPROCESS_SECONDS, path]
        values[f"preprocess {path.stem}"] = json.loads(run(*command, capture_output=True))["best_ms"] * 1e-3
    return values


def sample_gemm(side, args):
    del args
    output = run(side.path("kernels/gemm_bench"), f"--benchmark_filter={GEMM_FILTER}",
                 f"--benchmark_min_time={PRODUCT_SECONDS}", "--benchmark_format=json", capture_output=True)
    return {item["name"].removesuffix("/real_time"): item["real_time"] * 1e-9 for item in json.loads(output)["benchmarks"]}


BENCHES = {"engine": sample_engine, "preprocess": sample_preprocess, "gemm": sample_gemm}


def measure(base, head, args):
    """{name: [(base seconds, head seconds)]}"""
    draw = random.Random(args.seed)
    pairs = {}
    for number in range(args.pairs):
        samples = {}
        for side in draw.sample(["base", "head"], 2):
            samples[side] = {}
            for bench in args.benches:
                samples[side].update(BENCHES[bench]({"base": base, "head": head}[side], args))
        for name in samples["base"].keys() & samples["head"].keys():
            pairs.setdefault(name, []).append((samples["base"][name], samples["head"][name]))
        print(f"pair {number + 1} of {args.pairs}", file=sys.stderr, flush=True)
    return dict(sorted(pairs.items()))


def make_models(folder, seed):
    for size, layers in MODELS.items():
        run(sys.executable, ROOT / "tools/make_random_checkpoint.py", folder / size, "--size", size, "--layers", layers,
            "--seed", seed, capture_output=True)
    return [folder / size for size in MODELS]


def make_jpegs(folder):
    sys.path.insert(0, str(ROOT / "bench"))
    import preprocess

    names = [f"JPEG {size}" for size in ("500x375", "4000x3000")]
    for name, data in preprocess.cases():
        if name in names:
            (folder / f"{name.split()[1]}.jpg").write_bytes(data)
    return sorted(folder.glob("*.jpg"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a commit")
    parser.add_argument("head", nargs="?", help="a commit; default: the working tree")
    parser.add_argument("--preset", default="release", help="of CMakePresets.json")
    parser.add_argument("--benches", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=0.02, help="a slowdown that is no failure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int16"])
    parser.add_argument("--models", nargs="+", help="checkpoint folders; default: random weights")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.pairs < 10:
        parser.error(f"--pairs: expected at least 10, got {args.pairs}")
    base = build(check_out(args.base, "base"), args.preset)
    head = build(check_out(args.head, "head") if args.head else ROOT, args.preset)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        if "engine" in args.benches and not args.models:
            args.models = make_models(folder, args.seed)
        args.jpegs = make_jpegs(folder) if "preprocess" in args.benches else []
        verdicts = judge(measure(base, head, args), ERROR_RATE)
    print(report(verdicts, args.tolerance))
    return 1 if any(one.is_slower(args.tolerance) for one in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
