#!/usr/bin/env python3
"""Everything that a page of docs/performance/ records about a CPU: one command, one file.

    .venv/oracle/bin/python bench/cpu.py --json docs/performance/NAME.json        about two hours on two cores
    .venv/oracle/bin/python bench/cpu.py --quick                                  a few layers and cases

Engine: so400m, base and large, both towers, batches of one and of many, one thread and all, siglip's precisions against
torch, ONNX Runtime and OpenVINO in float32 and int8, in turns (bench/engine.py). Preprocessing against Pillow + numpy
(bench/preprocess.py). Matrix products of the models' shapes beside the machine's roofs (gemm_bench). Prints Markdown;
bench/tables.py puts it into the page and bench/roofline.py draws the plot. An interrupted run keeps the cases it
finished in the file of --json, and goes on when it is started again.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
import tempfile

import engine
import preprocess
import tables

VISION_CASES = {"so400m": [1], "base-224": [1, 16], "large-256": [1]}
TEXT_BATCHES = [1, 32]
PACKAGES = ["torch", "transformers", "onnxruntime", "openvino", "nncf", "numpy", "pillow"]


def cases(args):
    """(size, tower, batch, threads); those of one checkpoint stand together."""
    threads = args.threads or sorted({1, os.cpu_count()})
    for size in args.sizes:
        for tower in args.towers:
            for batch in VISION_CASES[size] if tower == "vision" else TEXT_BATCHES:
                if args.quick and batch > 1:
                    continue
                for count in threads:
                    yield size, tower, batch, count


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1)) >> 20
    return f"{cpu}, {os.cpu_count()} cores, {memory} GiB, Linux {platform.release()}"


def versions(siglip):
    own = subprocess.run([siglip, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    return ", ".join([own, *(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)])


def measure_engines(args, result, save):
    """Adds the cases that are not in `result` yet."""
    done = {tables.case_name(case) for case in result["engine"]}
    todo = [case for case in cases(args) if tables.case_name(
        dict(zip(("size", "tower", "batch", "threads"), case), layers=args.layers)) not in done]
    for size, tower in dict.fromkeys((size, tower) for size, tower, _, _ in todo):
        with tempfile.TemporaryDirectory(dir=args.scratch) as temporary:
            folder = pathlib.Path(temporary)
            model = engine.make_checkpoint(folder / "checkpoint", args, size, tower)
            for case in todo:
                if case[:2] == (size, tower):
                    print(f"{datetime.datetime.now():%H:%M:%S} {size} {tower} batch {case[2]}, {case[3]} threads",
                          file=sys.stderr, flush=True)
                    result["engine"].append(engine.measure(args, folder, model, *case))
                    save()


def measure_products(gemm_bench, quick):
    """Rates of gemm_bench, and the roofs it measures."""
    command = [gemm_bench, "--benchmark_format=json", "--benchmark_filter=BM_(FmaPeak|MemoryRead|Gemm)", f"--benchmark_min_time={0.1 if quick else 0.5}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    gemm = {"peak_gflops": {}, "read_gbs": {}, "rates": []}
    for run in json.loads(output)["benchmarks"]:
        name, _, rest = run["name"].partition("/")
        if name == "BM_FmaPeak":
            gemm["peak_gflops"][rest.split("/")[0]] = run["GFLOPs"]
        elif name == "BM_MemoryRead":
            gemm["read_gbs"][rest.split("/")[0]] = run["GBs"]
        elif not run.get("error_occurred"):  # a format that this processor has not
            shape = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", rest)}
            kind = name.removeprefix("BM_Gemm").lower() or "fp32"
            gemm["rates"].append({**shape, "format": kind, "gflops": run["GFLOPs"]})
    return gemm


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engine.add_options(parser)
    parser.add_argument("--sizes", nargs="+", choices=VISION_CASES, default=list(VISION_CASES))
    parser.add_argument("--towers", nargs="+", choices=["vision", "text"], default=["vision", "text"])
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 and all")
    parser.add_argument("--parts", nargs="+", choices=["engine", "preprocess", "gemm"], default=["engine", "preprocess", "gemm"])
    parser.add_argument("--quick", action="store_true", help="3 layers, batch 1, 3 rounds: minutes; ratios are rough")
    parser.add_argument("--json", type=pathlib.Path, help="the result, for bench/tables.py and bench/roofline.py")
    args = parser.parse_args()
    if args.quick:
        args.layers, args.rounds, args.seconds = args.layers or 3, 3, 0
    result = {"command": shlex.join(["bench/cpu.py", *sys.argv[1:]]), "machine": machine(), "versions": versions(args.siglip),
              "seed": args.seed, "engine": [], "preprocess": None, "gemm": None}
    if args.json and args.json.exists():
        before = json.loads(args.json.read_text())
        for key in ("command", "machine", "versions"):
            if before[key] != result[key]:
                sys.exit(f"{args.json}: of another {key} (`{before[key]}`, now `{result[key]}`): delete it or name another file")
        result = before
    result["date"] = f"{datetime.date.today()}"

    def save():
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result, indent=1) + "\n")

    build = pathlib.Path(args.siglip).resolve().parents[2]
    if "gemm" in args.parts and not result["gemm"]:
        result["gemm"] = measure_products(build / "src/kernels/gemm_bench", args.quick)
        save()
    if "preprocess" in args.parts and not result["preprocess"]:
        result["preprocess"] = preprocess.measure(build, 384, 1 if args.quick else 4)
        save()
    if "engine" in args.parts:
        measure_engines(args, result, save)
    print(tables.markdown(result), end="")


if __name__ == "__main__":
    main()
