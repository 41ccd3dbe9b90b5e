#!/usr/bin/env python3
"""The GPU engine against torch and TensorRT, in one run on one GPU; or, with --verify, is it right?

    .venv/oracle/bin/python bench/gpu.py --verify     the GPU tests, fidelity, the demo's predictions
    .venv/oracle/bin/python bench/gpu.py              then the speeds: a table, and JSON with --json FILE

Needs `cmake --preset cuda` built, and the environment .venv/oracle (tools/setup/install.sh venv oracle). TensorRT is
a peer if the environment has it (pip install tensorrt-cu13). siglip's figures include copying float32 pixels over
PCIe; the peers' inputs lie on the GPU. Each figure says the SM clock and the power while it was taken. Peak: a bf16
product of 8192 x 8192 x 8192 on random data in the same run. FLOP are nominal (see `siglip bench engine`).
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests/oracle")]
BATCHES = [1, 2, 4, 8, 16, 32, 64]
CONCURRENCIES = [1, 8, 30, 60, 120, 240]
PEER_SECONDS = 3
DEVICE = "cuda"
# Share of the demo's predictions that may change, where two classes are as near as numbers round. On a CPU torch's own
# bfloat16 changes 1 of 800 by neighbours and up to 1 of 800 by a text; e4m3 in the MLP, simulated, 3 and up to 3
# (tools/simulate_fp8.py --demo).
MAX_DEMO_CHANGES = {"bf16": 0.005, "fp16": 0.005, "fp8": 0.015}
# Of performance goals: bf16 against the best peer, fp8 against bf16.
GOALS = {"images_per_s": 943, "of_best_peer": 1.15, "fp8_of_bf16": 1.35}


class Monitor:
    """Clock and power of the GPU, by nvidia-smi, in the last seconds of a block: what comes before is loading."""

    INTERVAL_S = 0.2

    def __init__(self, gpu, seconds):
        self.gpu = gpu
        self.kept = max(1, int(seconds / self.INTERVAL_S))

    def __enter__(self):
        self.process = subprocess.Popen(
            ["nvidia-smi", "-i", str(self.gpu), "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits",
             "-lms", str(int(1000 * self.INTERVAL_S))], stdout=subprocess.PIPE, text=True)
        self.samples = []
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        return self

    def read(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.samples.append([float(value) for value in line.split(",")])

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.thread.join()

    def summary(self):
        clocks, watts = zip(*self.samples[-self.kept:]) if self.samples else ([0], [0])
        return {"sm_mhz": statistics.median(clocks), "watts": statistics.median(watts)}


def siglip(build):
    return ROOT / build / "src/cli/siglip"


def random_checkpoint(folder, size, layers=None, outliers=0):
    command = [sys.executable, ROOT / "tools/make_random_checkpoint.py", folder, "--size", size, "--outliers", str(outliers)]
    subprocess.run(command + (["--layers", str(layers)] if layers else []), check=True, stdout=subprocess.DEVNULL)
    return folder


def cosine(a, b):
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


# ---- Is it right?

def run_gpu_tests(build):
    """The tests labelled gpu; one that was skipped has proved nothing."""
    result = subprocess.run(["ctest", "--test-dir", ROOT / build, "-L", "gpu", "--output-on-failure"],
                            capture_output=True, text=True)
    print(result.stdout)
    return result.returncode == 0 and "Skipped" not in result.stdout and "No tests" not in result.stdout + result.stderr


def precisions():
    """Those of this GPU: cuBLASLt's scales for rows and columns of fp8 are of compute capability 9.0."""
    import torch
    if torch.cuda.get_device_capability() == (9, 0):
        return ["bf16", "fp16", "fp8"]
    print("fp8: left out, it needs compute capability 9.0")
    return ["bf16", "fp16"]


def predicted(lines):
    """Of the JSON lines of `siglip validate --predictions`: (row, template, picture) -> label."""
    rows = [json.loads(line) for line in lines]
    return {(row["row"], row["template"], row["path"]): row["predicted"] for row in rows}


def demo_verdict(want, got, precision):
    """(text, good): labels that differ, of those by neighbours and of those by texts."""
    if want.keys() != got.keys():
        return f"{len(got)} predictions, expected {len(want)}", False
    texts, passed = [], True
    for name, by_text in (("by neighbours", False), ("zero-shot", True)):
        keys = [key for key in want if key[0].startswith("Zero-shot") == by_text]
        differing = sum(want[key] != got[key] for key in keys)
        passed &= differing <= MAX_DEMO_CHANGES[precision] * len(keys)
        texts.append(f"{differing} of {len(keys)} {name}")
    return " and ".join(texts) + " differ", passed


def same_demo_predictions(build):
    """Labels that `siglip validate` predicts for the demo's images, on the GPU and on the CPU."""
    def predict(device, precision):
        with tempfile.TemporaryDirectory() as temporary:
            out = pathlib.Path(temporary) / "predictions.jsonl"
            subprocess.run([siglip(build), "validate", "--model", ROOT / "models/demo", "--data", ROOT / "data/demo",
                            "--device", device, "--precision", precision, "--predictions", out, "-q"], check=True,
                           stdout=subprocess.DEVNULL)
            return predicted(out.read_text().splitlines())

    want = predict("cpu", "fp32")
    passed = True
    for precision in precisions():
        try:
            text, good = demo_verdict(want, predict(DEVICE, precision), precision)
        except subprocess.CalledProcessError as error:  # it has said why
            text, good = f"siglip validate ended with {error.returncode}", False
        passed &= good
        print(f"demo, {precision}: {text} {'ok' if good else 'FAIL'}", flush=True)
    return passed


def fidelity(build, size, layers, outliers):
    """Bar: an error to float64 no larger than that of torch at the same precision; fp8: cosine >= 0.999 on
    well-conditioned weights."""
    import engine_oracle as oracle
    import torch
    import transformers
    passed = True
    os.environ["SIGLIP_BUILD_DIR"] = build
    oracle.SIGLIP = siglip(build)
    with tempfile.TemporaryDirectory() as temporary:
        folder = random_checkpoint(pathlib.Path(temporary) / "checkpoint", size, layers, outliers)
        paths = oracle.make_images(pathlib.Path(temporary))
        config = transformers.SiglipConfig.from_pretrained(folder)
        ids = oracle.token_ids(folder, config)
        pixels = oracle.prepare(folder, config, paths)["pixel_values"]
        exact = run_torch(folder, pixels, ids, torch.float64)
        for precision in precisions():
            dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
            try:
                got = oracle.ours(folder, paths, "auto", "--device", DEVICE, "--precision", precision).astype(np.float64)
            except subprocess.CalledProcessError as error:  # it has said why
                print(f"{size} outliers {outliers} {precision}: siglip embed ended with {error.returncode} FAIL", flush=True)
                passed = False
                continue
            theirs = run_torch(folder, pixels, ids, dtype) if dtype else [None, None]
            for name, mine, want, peer in zip(("vision", "text"), (got[:len(paths)], got[len(paths):]), exact, theirs):
                error, near = oracle.relative_l2(mine, want), cosine(mine, want)
                if dtype:
                    measure = np.nan_to_num(oracle.relative_l2(peer, want), nan=np.inf)  # where float16 ends
                    good, text = error <= measure, f"torch {measure:.2e}, ratio {error / measure:.2f}"
                else:
                    good, text = outliers > 0 or near >= 0.999, "bar cosine 0.999" if not outliers else "no bar"
                passed &= good
                print(f"{size} outliers {outliers} {precision} {name}: relative L2 {error:.2e}, 1 - cosine {1 - near:.2e}, "
                      f"{text} {'ok' if good else 'FAIL'}", flush=True)
    return passed


def run_torch(folder, pixels, ids, dtype):
    """Embeddings of images and texts, of the float32 weights rounded to `dtype`."""
    import torch
    import transformers
    model = transformers.SiglipModel.from_pretrained(folder, dtype=torch.float32).eval().to(DEVICE, dtype)
    with torch.no_grad():
        image = [model.vision_model(pixel_values=one[None].to(DEVICE, dtype)).pooler_output for one in pixels]
        return (torch.cat(image).double().cpu().numpy(),
                model.text_model(input_ids=ids.to(DEVICE)).pooler_output.double().cpu().numpy())


def verify(args):
    checks = {"GPU tests": lambda: run_gpu_tests(args.build), "demo predictions": lambda: same_demo_predictions(args.build)}
    for size in ("base-224", "so400m"):
        for outliers in (0, 8):
            checks[f"fidelity {size}, {outliers} outlier channels"] = functools.partial(fidelity, args.build, size, None,
                                                                                       outliers)
    results = {}
    for name, check in checks.items():
        try:
            results[name] = check()
        except Exception:  # the others prove something all the same
            traceback.print_exc()
            results[name] = False
    for name, good in results.items():
        print(f"{name}: {'pass' if good else 'FAIL'}")
    return all(results.values())


# ---- How fast is it?

def measure_peak(torch):
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / time_cuda(torch, lambda: a @ b) / 1e12


def time_cuda(torch, call, seconds=PEER_SECONDS):
    """Seconds per call, the median of the runs that fit into `seconds`."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 3:
        begin, done = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        done.record()
        done.synchronize()
        times.append(begin.elapsed_time(done) / 1000)
    return statistics.median(times)


def bench_siglip(args, model, precision, batch, cache):
    """Calls of many batches, as a server under load: the engine copies one while another computes."""
    per_call = min(1024, 16 * batch)
    with Monitor(args.gpu, args.seconds) as monitor:
        out = subprocess.run(
            [siglip(args.build), "bench", "engine", "--model", model, "--device", "cuda", "--precision", precision,
             "--batch", str(per_call), "--engine-batch-size", str(batch), "--seconds", str(args.seconds), "--cache-dir", cache,
             "--json"], check=True, capture_output=True, text=True).stdout
    result = json.loads(out)
    return {"engine": f"siglip {precision}", "batch": batch, "images_per_s": 1 / result["median_s_per_item"],
            "gflop": result["gflop_per_item"], "detail": result["engine"], **monitor.summary()}


def latency_siglip(args, model, precision, cache):
    """Milliseconds of one image alone, copies included."""
    out = subprocess.run(
        [siglip(args.build), "bench", "engine", "--model", model, "--device", "cuda", "--precision", precision,
         "--batch", "1", "--engine-batch-size", "1", "--seconds", str(args.seconds), "--cache-dir", cache, "--json"],
        check=True, capture_output=True, text=True).stdout
    return 1000 * json.loads(out)["median_s_per_item"]


def torch_peers(args, model_folder):
    """(name, batch -> call) of each way that torch has."""
    import torch
    import transformers
    from torch.nn.attention import SDPBackend, sdpa_kernel
    model = transformers.SiglipVisionModel.from_pretrained(model_folder, dtype=torch.bfloat16,
                                                           attn_implementation="sdpa").eval().cuda()
    side = model.config.image_size
    inputs = {batch: torch.randn(batch, 3, side, side, device="cuda", dtype=torch.bfloat16) for batch in args.batches}
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        name = backend.name.split("_")[0].lower()

        def eager(batch, backend=backend):
            with torch.inference_mode(), sdpa_kernel(backend):
                return model(pixel_values=inputs[batch]).pooler_output

        yield f"torch eager, {name}", eager
        torch._dynamo.reset()
        compiled = torch.compile(model, mode="max-autotune", fullgraph=True, dynamic=False)

        def fast(batch, backend=backend, compiled=compiled):
            with torch.inference_mode(), sdpa_kernel(backend):
                return compiled(pixel_values=inputs[batch]).pooler_output

        yield f"torch.compile max-autotune, {name}", fast


def tensorrt_peer(args, model_folder, folder):
    """Strongly typed bf16, through ONNX; None if TensorRT is not there."""
    try:
        import tensorrt as trt
    except ImportError:
        print("TensorRT: not in this environment, left out")
        return None
    import torch
    import transformers
    model = transformers.SiglipVisionModel.from_pretrained(model_folder, dtype=torch.bfloat16).eval().cuda()
    side = model.config.image_size
    engines = {}

    def call(batch):
        if batch not in engines:
            pixels = torch.randn(batch, 3, side, side, device="cuda", dtype=torch.bfloat16)
            path = str(folder / f"{batch}.onnx")
            torch.onnx.export(model, (pixels,), path, dynamo=True, external_data=True)
            logger = trt.Logger(trt.Logger.ERROR)
            builder = trt.Builder(logger)
            network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            parser = trt.OnnxParser(network, logger)
            if not parser.parse_from_file(path):
                raise RuntimeError(f"TensorRT: {parser.get_error(0)}")
            plan = builder.build_serialized_network(network, builder.create_builder_config())
            engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
            context = engine.create_execution_context()
            tensors = {}
            for i in range(engine.num_io_tensors):
                name = engine.get_tensor_name(i)
                shape = tuple(context.get_tensor_shape(name))
                is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
                tensors[name] = pixels if is_input else torch.empty(shape, device="cuda", dtype=torch.bfloat16)
                context.set_tensor_address(name, tensors[name].data_ptr())
            stream = torch.cuda.Stream()
            context.execute_async_v3(stream.cuda_stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                context.execute_async_v3(stream.cuda_stream)
            engines[batch] = (engine, context, tensors, graph)
        engines[batch][3].replay()

    return call


def bench_peers(args, model, folder, gflop):
    import torch
    rows = []
    trt = tensorrt_peer(args, model, folder)
    # One after the other: what torch.compile made for one backend would run for the next.
    for name, call in itertools.chain(torch_peers(args, model), [("TensorRT bf16", trt)] if trt else []):
        for batch in args.batches:
            try:
                with Monitor(args.gpu, PEER_SECONDS) as monitor:
                    seconds = time_cuda(torch, lambda: call(batch))  # noqa: B023
            except Exception as error:  # a peer that cannot is left out by name, not a failure of ours
                print(f"{name}, batch {batch}: left out: {str(error)[:300]}", file=sys.stderr)
                continue
            rows.append({"engine": name, "batch": batch, "images_per_s": batch / seconds, "gflop": gflop,
                         "ms_per_call": 1000 * seconds, **monitor.summary()})
            print_row(rows[-1], args.peak)
    return rows


def print_row(row, peak):
    of_peak = row["images_per_s"] * row["gflop"] / 1000 / peak
    print(f"| {row['engine']} | {row['batch']} | {row['images_per_s']:.1f} | {100 * of_peak:.0f} % | {row['sm_mhz']:.0f} | "
          f"{row['watts']:.0f} |", flush=True)


def bench_server(args, model, cache, images):
    """embed_image over gRPC, from encoded files: decoding on this machine's CPU is part of it."""
    ports = [18100, 18101, 18102]
    server = subprocess.Popen(
        [siglip(args.build), "serve", "--model", model, "--device", "cuda", "--precision", "bf16", "--cache-dir",
         cache, "--http-port", str(ports[0]), "--grpc-port", str(ports[1]), "--metrics-port", str(ports[2])],
        stderr=subprocess.DEVNULL)
    rows = []
    try:
        for _ in range(600):
            if server.poll() is not None:
                break  # the clients below say what is not there
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/v2/health/ready", timeout=2)
                break
            time.sleep(0.5)
        print("| concurrency | images/s | p50 ms | p99 ms | SM MHz | W |\n|---|---|---|---|---|---|")
        for concurrency in args.concurrencies:
            with Monitor(args.gpu, args.seconds) as monitor:
                out = subprocess.run(
                    [siglip(args.build), "bench", "server", "--url", f"127.0.0.1:{ports[1]}", "--concurrency", str(concurrency),
                     "--seconds", str(args.seconds), "--json", *images], check=True, capture_output=True, text=True).stdout
            rows.append({"concurrency": concurrency, **json.loads(out), **monitor.summary()})
            row = rows[-1]
            print(f"| {concurrency} | {row['images_per_s']:.1f} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | "
                  f"{row['sm_mhz']:.0f} | {row['watts']:.0f} |", flush=True)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    return rows


def verdict(rows):
    best = lambda test: max((row["images_per_s"] for row in rows if test(row["engine"])), default=0)  # noqa: E731
    bf16, fp8 = best(lambda name: name == "siglip bf16"), best(lambda name: name == "siglip fp8")
    peer = best(lambda name: not name.startswith("siglip"))
    for text, value, goal in (("siglip bf16 images/s", bf16, GOALS["images_per_s"]),
                              ("siglip bf16 / best peer", bf16 / peer if peer else 0, GOALS["of_best_peer"]),
                              ("siglip fp8 / bf16", fp8 / bf16 if bf16 else 0, GOALS["fp8_of_bf16"])):
        print(f"{text}: {value:.2f}, goal {goal} (of an H200): {'pass' if value >= goal else 'FAIL'}")


def measure(args):
    import torch
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        model = args.model or random_checkpoint(folder / "checkpoint", args.size)
        cache = str(folder / "cache")
        with Monitor(args.gpu, PEER_SECONDS) as monitor:
            args.peak = measure_peak(torch)
        name = torch.cuda.get_device_name()
        print(f"{name}, driver and libraries: {subprocess.run([siglip(args.build), '--version'], capture_output=True, text=True).stdout}")
        print(f"bf16 8192^3: {args.peak:.0f} TFLOP/s at {monitor.summary()}")
        print("| engine | batch | images/s | of the peak | SM MHz | W |\n|---|---|---|---|---|---|")
        results = {"gpu": name, "peak_tflops": args.peak, "latency_ms": {}, "rows": [], "server": []}
        rows = results["rows"]

        def keep():  # what is measured is not lost with what comes after
            if args.json:
                pathlib.Path(args.json).write_text(json.dumps(results, indent=1))

        for precision in args.precisions or precisions():
            try:
                for batch in args.batches:
                    rows.append(bench_siglip(args, model, precision, batch, cache))
                    print_row(rows[-1], args.peak)
                    keep()
                results["latency_ms"][precision] = latency_siglip(args, model, precision, cache)
            except subprocess.CalledProcessError as error:
                print(f"siglip {precision}: FAIL: {error.stderr.strip()[-300:]}", file=sys.stderr)
        print(f"one image alone, ms: {results['latency_ms']}")
        if rows and not args.no_peers:
            rows += bench_peers(args, model, folder, rows[0]["gflop"])
            keep()
        if args.images:
            try:
                results["server"] = bench_server(args, model, cache, args.images)
            except subprocess.CalledProcessError as error:
                print(f"server: FAIL: {error.stderr.strip()[-300:]}", file=sys.stderr)
        verdict(rows)
        keep()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--build", default="build/cuda")
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--model", help="checkpoint folder; default: random weights of --size")
    parser.add_argument("--size", default="so400m")
    parser.add_argument("--precisions", nargs="+", help="default: all that the GPU has")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--concurrencies", nargs="+", type=int, default=CONCURRENCIES)
    parser.add_argument("--images", nargs="*", default=[], help="image files for the server's part; none: left out")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    if not siglip(args.build).exists():
        sys.exit(f"{siglip(args.build)}: not there; cmake --preset cuda && cmake --build --preset cuda")
    # For all that runs here and below; numbered as nvidia-smi numbers.
    os.environ.update(CUDA_DEVICE_ORDER="PCI_BUS_ID", CUDA_VISIBLE_DEVICES=str(args.gpu))
    if args.verify:
        return 0 if verify(args) else 1
    measure(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
