#!/usr/bin/env python3
"""One peer of bench/engine.py: a tower of a checkpoint in torch, ONNX Runtime or OpenVINO.

    python3 bench/engine_peer.py PEER --model DIR --tower vision --threads 2 --inputs FILE.npy --export DIR [--prepare]

With --prepare it writes the files that PEER needs and ends: exporting and quantising leave memory behind that would be
counted as the peer's. A peer with several layouts is timed in each then, and the fastest is used. Without, it prints
`ready`, then one line for each line of standard input: `run` -> seconds of one pass over the inputs,
`outputs FILE` -> writes the embeddings of the inputs as .npy, `layout` -> which one. Needs requirements-oracle.txt.
"""

import argparse
import pathlib
import sys
import time
import warnings

import numpy as np

# torch's announcements that quantize_dynamic moves elsewhere.
warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", category=UserWarning)


def tower_module(args, dtype="float32"):
    """The tower as a module from inputs to pooler_output."""
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    model = transformers.SiglipModel.from_pretrained(args.model, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    tower = model.vision_model if args.tower == "vision" else model.text_model

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = tower

        def forward(self, x):
            return self.tower(x).pooler_output

    return Pooled().eval()


def torch_runner(args, module, layout="contiguous", dtype="float32"):
    import torch

    x = torch.from_numpy(args.data)
    if x.is_floating_point():
        x = x.to(getattr(torch, dtype))
    if layout == "channels_last":
        module, x = module.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode():
            return module(x).float().numpy()

    return run


def torch_fp32(args, layout):
    return torch_runner(args, tower_module(args), layout)


def torch_bf16(args, _):
    return torch_runner(args, tower_module(args, "bfloat16"), dtype="bfloat16")


def torch_compile(args, _):
    import torch

    return torch_runner(args, torch.compile(tower_module(args)))


def torch_int8(args, _):
    """Linear layers: weights per channel at load, activations per tensor as they come (FBGEMM)."""
    import torch

    quantization = torch.ao.quantization
    module = quantization.quantize_dynamic(
        tower_module(args), {torch.nn.Linear: quantization.per_channel_dynamic_qconfig}, inplace=True)
    return torch_runner(args, module)


def onnx_file(args, layout):
    """The tower as an ONNX file of this batch size, made once per export folder. `layout` names the operators: from opset
    23 on attention is one of them."""
    opset = int(layout.removeprefix("opset "))
    path = pathlib.Path(args.export) / f"{args.tower}-{len(args.data)}-opset{opset}.onnx"
    if not path.exists():
        import torch

        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode():
            torch.onnx.export(tower_module(args), (torch.from_numpy(args.data),), str(path), dynamo=True, opset_version=opset,
                              input_names=["x"], output_names=["y"], external_data=True, verbose=False)
    return path


def onnxruntime_runner(args, path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    # Idle threads would otherwise take the cores of the peer whose turn it is.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {session.get_inputs()[0].name: args.data})[0]


def onnxruntime_fp32(args, layout):
    return onnxruntime_runner(args, onnx_file(args, layout))


def onnxruntime_int8(args, layout):
    """Weights per channel, activations per tensor as they come."""
    path = onnx_file(args, layout)
    quantised = path.with_suffix(".int8.onnx")
    if not quantised.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(path, quantised, weight_type=QuantType.QInt8, per_channel=True,
                         op_types_to_quantize=["MatMul", "Gemm"], use_external_data_format=True)
    return onnxruntime_runner(args, quantised)


def openvino_runner(args, path, precision="f32"):
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {
        "INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision})
    return lambda: compiled([args.data])[0]


def openvino_fp32(args, layout):
    return openvino_runner(args, onnx_file(args, layout))


def openvino_bf16(args, layout):
    """What OpenVINO does by itself on processors with AMX."""
    return openvino_runner(args, onnx_file(args, layout), "bf16")


def openvino_int8(args, _):
    """NNCF's post-training quantisation for transformers, calibrated on the inputs themselves."""
    path = onnx_file(args, "opset 18")
    quantised = path.with_suffix(".int8.xml")
    if not quantised.exists():
        import nncf
        import openvino

        model = nncf.quantize(openvino.Core().read_model(str(path)), nncf.Dataset([args.data]), subset_size=1,
                              model_type=nncf.ModelType.TRANSFORMER, preset=nncf.QuantizationPreset.MIXED)
        openvino.save_model(model, str(quantised), compress_to_fp16=False)
    return openvino_runner(args, quantised)


# Peer -> how to make it, and its layouts.
PEERS = {
    "torch": (torch_fp32, ["contiguous", "channels_last"]),
    "torch-compile": (torch_compile, ["contiguous"]),
    "torch-bf16": (torch_bf16, ["contiguous"]),
    "torch-int8": (torch_int8, ["dynamic, per channel"]),
    "onnxruntime": (onnxruntime_fp32, ["opset 18", "opset 23"]),
    "onnxruntime-int8": (onnxruntime_int8, ["opset 18", "opset 23"]),
    "openvino": (openvino_fp32, ["opset 18", "opset 23"]),
    "openvino-bf16": (openvino_bf16, ["opset 18", "opset 23"]),
    "openvino-int8": (openvino_int8, ["opset 18"]),
}


def seconds_of(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def fastest_layout(args):
    """Each is tried in turns; one that does not load is none. Remembered beside the exported files."""
    make, layouts = PEERS[args.peer]
    if args.tower == "text" and args.peer == "torch" or len(layouts) == 1:
        return layouts[0]
    choice = pathlib.Path(args.export) / f"{args.peer}-{args.tower}-{len(args.data)}-{args.threads}.layout"
    if choice.exists():
        return choice.read_text()
    runs = {}
    for layout in layouts:
        try:
            runs[layout] = make(args, layout)
            runs[layout]()
        except Exception as error:  # noqa: BLE001: whatever a library raises, the other layout is left
            print(f"{args.peer}, {layout}: {error}", file=sys.stderr)
            runs.pop(layout, None)
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(3):
        for layout, run in runs.items():
            seconds[layout] = min(seconds[layout], seconds_of(run))
    best = min(seconds, key=seconds.get)
    choice.parent.mkdir(parents=True, exist_ok=True)
    choice.write_text(best)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tower", choices=["vision", "text"], default="vision")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--inputs", required=True, help=".npy: pixels [N,3,S,S] or ids [N,T]")
    parser.add_argument("--export", required=True, help="folder for exported models")
    parser.add_argument("--prepare", action="store_true", help="write what the peer needs and end")
    args = parser.parse_args()
    args.data = np.load(args.inputs)
    layout = fastest_layout(args)
    if args.prepare and args.peer.startswith("torch"):
        return  # torch reads the checkpoint itself
    run = PEERS[args.peer][0](args, layout)
    if args.prepare:
        return
    run()
    print("ready", flush=True)
    for line in sys.stdin:
        command, _, value = line.strip().partition(" ")
        if command == "run":
            print(f"{seconds_of(run):.6f}", flush=True)
        elif command == "outputs":
            np.save(value, np.asarray(run(), np.float32))
            print("saved", flush=True)
        elif command == "layout":
            print(layout, flush=True)
        else:
            sys.exit(f"expected run, outputs FILE or layout, got '{line.strip()}'")


if __name__ == "__main__":
    main()
