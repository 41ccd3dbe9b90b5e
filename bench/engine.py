#!/usr/bin/env python3
"""The engine against torch, ONNX Runtime and OpenVINO, in one run and in turns: one case.

    .venv/oracle/bin/python bench/engine.py --size so400m            (bench/cpu.py runs all cases)

Every engine sits in a process of its own, holds the same random weights and the same inputs, has run once, and waits
while another one runs; the order of each round is drawn. The best of all rounds counts, and the median beside it; the
multiply-add peak is measured in the same rounds. FLOP are nominal (2 per multiply-add, nothing saved); cosine is
against torch float32; memory is resident after the last round. The last lines say pass or fail by the goals of
bench/tables.py.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))
import tables  # noqa: E402

MAX_ROUNDS = 50


class NotStarted(Exception):
    """An engine that this machine or its libraries cannot run; says why."""


class Engine:
    """A process that answers lines."""

    def __init__(self, name, command):
        self.name = name
        self.seconds = []
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env=without_openblas())
        for line in self.process.stdout:
            if line.strip() == "ready":
                return
        raise NotStarted(self.last_words())

    def last_words(self):
        self.process.wait()
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return f"exit code {self.process.returncode}: {lines[-1][:300] if lines else 'no message'}"

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            sys.exit(f"{self.name} ended: {self.last_words()}")
        return answer

    def run(self):
        self.seconds.append(float(self.ask("run")))

    def resident_mb(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def without_openblas():
    """Settings for one program's threads must not leak into another's."""
    return {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS")}


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def make_checkpoint(folder, args, size, tower):
    command = [sys.executable, str(ROOT / "tools/make_random_checkpoint.py"), str(folder), "--size", size, "--tower", tower,
               "--seed", str(args.seed)]
    subprocess.run(command + (["--layers", str(args.layers)] if args.layers else []), check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def pixels_of(path, side):
    from PIL import Image

    image = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return (np.asarray(image).astype(np.float32) / 255 - 0.5).transpose(2, 0, 1) / 0.5


def make_inputs(model, tower, batch, seed, images):
    """Of the image files in turns, or random; texts are random ids."""
    config = json.loads((pathlib.Path(model) / "config.json").read_text())
    rng = np.random.default_rng(seed)
    if tower == "text":
        text = config["text_config"]
        return rng.integers(2, text.get("vocab_size", 32000), (batch, text.get("max_position_embeddings", 64)))
    side = config["vision_config"].get("image_size", 224)
    if images:
        return np.stack([pixels_of(images[i % len(images)], side) for i in range(batch)]).astype(np.float32)
    return rng.uniform(-1, 1, (batch, 3, side, side)).astype(np.float32)


def start_peer(peer, options, folder):
    command = [sys.executable, str(ROOT / "bench/engine_peer.py"), peer, *options, "--export", str(folder / "export")]
    prepared = subprocess.run(command + ["--prepare"], capture_output=True, text=True, env=without_openblas(), check=False)
    if prepared.returncode != 0:
        raise NotStarted((prepared.stderr.strip().splitlines() or ["no message"])[-1][:300])
    return Engine(peer, command)


def start_engines(args, folder, model, tower, batch, threads):
    """The engines, and for those that did not start the reason."""
    inputs = make_inputs(model, tower, batch, args.seed, args.images)
    raw, npy = folder / "inputs.bin", folder / "inputs.npy"
    inputs.tofile(raw)
    np.save(npy, inputs)
    common = ["--model", str(model), "--tower", tower, "--threads", str(threads)]
    engines, left_out = [], {}
    for precision in args.precisions:
        try:
            engines.append(Engine(f"siglip {precision}", [
                args.siglip, "bench", "engine", *common, "--batch", str(batch), "--engine-batch-size", str(batch),
                "--precision", precision, "--raw-inputs", str(raw), "--interactive"]))
        except NotStarted as error:
            left_out[f"siglip {precision}"] = str(error)
    if not engines:
        sys.exit(f"no precision of siglip started: {left_out}")
    for peer in args.peers:
        try:
            engines.append(start_peer(peer, [*common, "--inputs", str(npy)], folder))
        except NotStarted as error:
            left_out[peer] = str(error)
    return engines, left_out


def take_turns(args, engines):
    """Runs the rounds; the multiply-add peaks beside them."""
    peaks = []
    draw = random.Random(args.seed)
    start = time.perf_counter()
    while len(peaks) < args.rounds or (time.perf_counter() - start < args.seconds and len(peaks) < MAX_ROUNDS):
        peaks.append(float(engines[0].ask("peak")))
        for engine in draw.sample(engines, len(engines)):
            engine.run()
    return peaks


def outputs_of(engine, folder, batch):
    path = folder / "outputs.npy"
    engine.ask(f"outputs {path}")
    return np.fromfile(path, np.float32).reshape(batch, -1) if engine.name.startswith("siglip") else np.load(path)


def measure(args, folder, model, size, tower, batch, threads):
    """One case as a dictionary; `folder` keeps what peers export, for the next case of this model."""
    engines, left_out = start_engines(args, folder, model, tower, batch, threads)
    peaks = take_turns(args, engines)
    outputs = {engine.name: outputs_of(engine, folder, batch) for engine in engines}
    exact = outputs.get("torch", next(iter(outputs.values())))
    gflop = float(engines[0].ask("flop")) * 1e-9
    peak = max(peaks)
    best_of = {engine.name: min(engine.seconds) / batch for engine in engines}
    best_peer = min((best_of[name] for name in tables.FP32_PEERS if name in best_of), default=None)
    rows = []
    for engine in engines:
        best = best_of[engine.name]
        rows.append({
            "engine": engine.name, "layout": "" if engine.name.startswith("siglip") else engine.ask("layout"),
            "best_s": best, "median_s": statistics.median(engine.seconds) / batch, "gflops": gflop / best,
            "of_peak": gflop / best / peak, "ratio_to_best_fp32_peer": best_peer / best if best_peer else None,
            "cosine": cosine(outputs[engine.name], exact), "resident_mb": engine.resident_mb()})
        engine.stop()
    return {"size": size, "layers": args.layers, "tower": tower, "batch": batch, "threads": threads, "rounds": len(peaks),
            "peak_gflops": peak, "gflop_per_item": gflop, "rows": rows, "left_out": left_out}


def processor_has(*flags):
    here = pathlib.Path("/proc/cpuinfo").read_text().split()
    return any(flag in here for flag in flags)


def add_options(parser):
    """What bench/cpu.py has too."""
    parser.add_argument("--siglip", default=str(ROOT / "build/release/src/cli/siglip"))
    parser.add_argument("--layers", type=int, help="fewer layers than the real size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="more rounds, until so much time has passed")
    parser.add_argument("--seed", type=int, default=1, help="of weights, inputs and the order of turns")
    parser.add_argument("--images", nargs="+", help="image files instead of random pixels")
    parser.add_argument("--precisions", nargs="+", help="default: all that this processor is made for",
                        default=["fp32", "int16", "int8"] + (["bf16"] if processor_has("amx_bf16") else []))
    parser.add_argument("--peers", nargs="*", help="default: all that this processor is made for",
                        default=tables.FP32_PEERS + (tables.BF16_PEERS if processor_has("amx_bf16", "avx512_bf16") else [])
                        + tables.INT8_PEERS)
    parser.add_argument("--scratch", help="folder for checkpoints and exported models (several GB); default: temporary")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--model", help="checkpoint folder; default: random weights of --size")
    parser.add_argument("--size", default="so400m", help="a size of tools/make_random_checkpoint.py")
    parser.add_argument("--tower", choices=["vision", "text"], default="vision")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=pathlib.Path, help="also write the result here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as temporary:
        folder = pathlib.Path(temporary)
        model = args.model or make_checkpoint(folder / "checkpoint", args, args.size, args.tower)
        result = measure(args, folder, model, args.model or args.size, args.tower, args.batch, args.threads)
    print(tables.engine_table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    goals = tables.goal_lines(result)
    for line, _ in goals:
        print(line)
    return 0 if all(passed for _, passed in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
