#!/usr/bin/env python3
"""The engine against torch, ONNX Runtime and OpenVINO, in one run and in turns.

    .venv/oracle/bin/python bench/engine.py --size so400m            (make the environment: see bench/README.md)

Every engine sits in a process of its own, holds the same random weights and the same inputs, and waits while another
one runs. The best of all rounds counts, and the median beside it; the multiply-add peak is measured in the same
rounds. FLOP are nominal (2 per multiply-add, nothing saved); cosine is against torch float32. The last line says
pass or fail by GOALS; bench/README.md says what was reached.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
FP32_PEERS = ["torch", "torch-compile", "onnxruntime", "openvino"]
REDUCED_PEERS = ["torch-bf16", "onnxruntime-int8", "openvino-int8"]
# Ratios to the best float32 peer.
GOALS = {"fp32": 1.35, "int16": 1.8}


class Engine:
    """A process that answers lines."""

    def __init__(self, name, command):
        self.name = name
        self.seconds = []
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)

    def wait_ready(self):
        for line in self.process.stdout:
            if line.strip() == "ready":
                return True
        self.log.seek(0)
        print(f"{self.name}: left out, it did not start:\n{self.log.read().decode()[-1500:]}", file=sys.stderr)
        return False

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            self.log.seek(0)
            sys.exit(f"{self.name} ended:\n{self.log.read().decode()[-1500:]}")
        return answer

    def run(self):
        self.seconds.append(float(self.ask("run")))

    def resident_mb(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def make_inputs(config, tower, batch, seed):
    rng = np.random.default_rng(seed)
    if tower == "vision":
        side = config["vision_config"].get("image_size", 224)
        return rng.uniform(-1, 1, (batch, 3, side, side)).astype(np.float32)
    text = config["text_config"]
    return rng.integers(2, text.get("vocab_size", 32000), (batch, text.get("max_position_embeddings", 64)))


def start_engines(args, folder, inputs):
    raw, npy = folder / "inputs.bin", folder / "inputs.npy"
    inputs.tofile(raw)
    np.save(npy, inputs)
    engines = []
    for precision in args.precisions:
        engines.append(Engine(f"siglip {precision}", [
            args.siglip, "bench", "engine", "--model", args.model, "--tower", args.tower, "--batch", str(args.batch),
            "--engine-batch-size", str(args.batch), "--threads", str(args.threads), "--precision", precision,
            "--raw-inputs", raw, "--interactive"]))
        if not engines[-1].wait_ready():
            sys.exit(1)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS")}
    os.environ.clear()
    os.environ.update(environment)
    for peer in args.peers:
        engine = Engine(peer, [
            sys.executable, ROOT / "bench/engine_peer.py", peer, "--model", args.model, "--tower", args.tower,
            "--threads", str(args.threads), "--inputs", npy, "--export", args.export])
        if engine.wait_ready():
            engines.append(engine)
    return engines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--siglip", default=str(ROOT / "build/release/src/cli/siglip"))
    parser.add_argument("--model", help="checkpoint folder; default: random weights of --size in a temporary folder")
    parser.add_argument("--size", default="so400m", help="a size of tools/make_random_checkpoint.py")
    parser.add_argument("--layers", type=int, help="fewer layers than the real size")
    parser.add_argument("--tower", choices=["vision", "text"], default="vision")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    parser.add_argument("--peers", nargs="*", default=FP32_PEERS)
    parser.add_argument("--export", help="folder where peers keep exported models; default: temporary")
    parser.add_argument("--json", help="also write the result here")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        args.export = args.export or str(folder / "export")
        if not args.model:
            args.model = str(folder / "checkpoint")
            command = [sys.executable, str(ROOT / "tools/make_random_checkpoint.py"), args.model, "--size", args.size,
                       "--seed", str(args.seed)]
            subprocess.run(command + (["--layers", str(args.layers)] if args.layers else []), check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        config = json.loads((pathlib.Path(args.model) / "config.json").read_text())
        inputs = make_inputs(config, args.tower, args.batch, args.seed)
        engines = start_engines(args, folder, inputs)
        peaks = []
        for _ in range(args.rounds):
            peaks.append(float(engines[0].ask("peak")))
            for engine in engines:
                engine.run()
        outputs = {}
        for engine in engines:
            path = folder / "outputs.npy"
            engine.ask(f"outputs {path}")
            outputs[engine.name] = (np.fromfile(path, np.float32).reshape(args.batch, -1)
                                    if engine.name.startswith("siglip") else np.load(path))
        gflop = json.loads(subprocess.run(
            [args.siglip, "bench", "engine", "--model", args.model, "--tower", args.tower, "--seconds", "0", "--json"],
            check=True, capture_output=True, text=True).stdout)["gflop_per_item"]
        return report(args, engines, outputs, gflop, max(peaks))


def report(args, engines, outputs, gflop, peak):
    exact = outputs.get("torch", next(iter(outputs.values())))
    best_of = {engine.name: min(engine.seconds) / args.batch for engine in engines}
    fp32_peers = [best_of[name] for name in FP32_PEERS if name in best_of]
    best_peer = min(fp32_peers) if fp32_peers else None
    rows = []
    for engine in engines:
        best = best_of[engine.name]
        rows.append({
            "engine": engine.name, "best_s": best, "median_s": statistics.median(engine.seconds) / args.batch,
            "gflops": gflop / best, "of_peak": gflop / best / peak,
            "ratio_to_best_fp32_peer": best_peer / best if best_peer else None,
            "cosine": cosine(outputs[engine.name], exact), "resident_mb": engine.resident_mb()})
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"{args.size if not args.layers else f'{args.size}, {args.layers} layers'} {args.tower}, batch {args.batch}, "
          f"{args.threads} threads, {args.rounds} rounds, seed {args.seed}; {cpu}, {platform.release()}")
    print(f"multiply-add peak {peak:.1f} GFLOP/s; {gflop:.1f} GFLOP per item")
    print("| engine | best s/item | median | GFLOP/s | of peak | ratio to best fp32 peer | cosine to torch fp32 | MB |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        ratio = f"{row['ratio_to_best_fp32_peer']:.2f}" if best_peer else ""
        print(f"| {row['engine']} | {row['best_s']:.4g} | {row['median_s']:.4g} | {row['gflops']:.1f} | "
              f"{100 * row['of_peak']:.0f} % | {ratio} | {row['cosine']:.7f} | {row['resident_mb']} |")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({
            "size": args.size, "layers": args.layers, "tower": args.tower, "batch": args.batch,
            "threads": args.threads, "cpu": cpu, "peak_gflops": peak, "gflop_per_item": gflop, "rows": rows}, indent=1))
    passed = True
    for row in rows:
        goal = GOALS.get(row["engine"].removeprefix("siglip ")) if row["engine"].startswith("siglip ") else None
        if goal and best_peer:
            good = row["ratio_to_best_fp32_peer"] >= goal
            passed &= good
            print(f"{row['engine']}: {row['ratio_to_best_fp32_peer']:.2f} x the best float32 peer, goal {goal}: "
                  f"{'pass' if good else 'FAIL'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
