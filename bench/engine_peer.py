#!/usr/bin/env python3
"""One peer of bench/engine.py: a tower of a checkpoint in torch, ONNX Runtime or OpenVINO.

    python3 bench/engine_peer.py PEER --model DIR --tower vision --batch 1 --threads 2 --inputs FILE.npy --export DIR

Prints `ready`, then one line for each line of standard input: `run` -> seconds of one pass over the inputs,
`outputs FILE` -> writes the embeddings of the inputs as .npy. Needs requirements-oracle.txt.
"""

import argparse
import pathlib
import sys
import time

import numpy as np
import torch
import transformers


def tower_module(args, dtype):
    """The tower as a module from inputs to pooler_output, and the name of its input."""
    model = transformers.SiglipModel.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa").eval()
    tower = model.vision_model if args.tower == "vision" else model.text_model

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = tower

        def forward(self, x):
            return self.tower(x).pooler_output

    return Pooled().eval()


def torch_peer(args, inputs, dtype=torch.float32, compiled=False):
    module = tower_module(args, dtype)
    x = torch.from_numpy(inputs)
    if x.is_floating_point():
        x = x.to(dtype)
    if compiled:
        module = torch.compile(module)

    def run():
        with torch.inference_mode():
            return module(x).float().numpy()

    return run


def onnx_file(args, inputs):
    """The tower as an ONNX file of this batch size, made once per export folder."""
    path = pathlib.Path(args.export) / f"{args.tower}-{len(inputs)}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode():
            torch.onnx.export(tower_module(args, torch.float32), (torch.from_numpy(inputs),), str(path), dynamo=True,
                              input_names=["x"], output_names=["y"], external_data=True, verbose=False)
    return path


def onnxruntime_peer(args, inputs, int8=False):
    import onnxruntime

    path = onnx_file(args, inputs)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantised = path.with_suffix(".int8.onnx")
        if not quantised.exists():
            quantize_dynamic(path, quantised, weight_type=QuantType.QInt8, per_channel=True,
                             op_types_to_quantize=["MatMul", "Gemm"], use_external_data_format=True)
        path = quantised
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    # Idle threads would otherwise take the cores of the peer whose turn it is.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {session.get_inputs()[0].name: inputs})[0]


def openvino_peer(args, inputs, int8=False):
    import openvino

    core = openvino.Core()
    model = core.read_model(str(onnx_file(args, inputs)))
    if int8:
        import nncf

        model = nncf.quantize(model, nncf.Dataset([inputs]), model_type=nncf.ModelType.TRANSFORMER, subset_size=1,
                              preset=nncf.QuantizationPreset.MIXED)
    compiled = core.compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
    return lambda: compiled([inputs])[0]


PEERS = {
    "torch": torch_peer,
    "torch-compile": lambda args, inputs: torch_peer(args, inputs, compiled=True),
    "torch-bf16": lambda args, inputs: torch_peer(args, inputs, torch.bfloat16),
    "onnxruntime": onnxruntime_peer,
    "onnxruntime-int8": lambda args, inputs: onnxruntime_peer(args, inputs, int8=True),
    "openvino": openvino_peer,
    "openvino-int8": lambda args, inputs: openvino_peer(args, inputs, int8=True),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tower", choices=["vision", "text"], default="vision")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--inputs", required=True, help=".npy: pixels [N,3,S,S] or ids [N,T]")
    parser.add_argument("--export", required=True, help="folder for ONNX files")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = PEERS[args.peer](args, np.load(args.inputs))
    run()
    print("ready", flush=True)
    for line in sys.stdin:
        command, _, value = line.strip().partition(" ")
        if command == "outputs":
            np.save(value, np.asarray(run(), np.float32))
            print("saved", flush=True)
            continue
        start = time.perf_counter()
        run()
        print(f"{time.perf_counter() - start:.6f}", flush=True)


if __name__ == "__main__":
    main()
