"""bench/gpu.py --verify, as far as it goes without a GPU."""

import argparse
import ast
import importlib.util
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
SOURCE = ROOT / "bench/gpu.py"
SPEC = importlib.util.spec_from_file_location("bench_gpu", SOURCE)
gpu = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gpu)


def test_what_it_takes_from_the_oracle_is_there():
    functions = {node.name: node.args for node in ast.parse((ROOT / "tests/oracle/engine_oracle.py").read_text()).body
                 if isinstance(node, ast.FunctionDef)}
    calls = [node for node in ast.walk(ast.parse(SOURCE.read_text()))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
             and getattr(node.func.value, "id", "") == "oracle"]
    assert len(calls) > 4
    for call in calls:
        takes = functions[call.func.attr]
        given, named = len(call.args), len(takes.args)
        assert named - len(takes.defaults) <= given and (given <= named or takes.vararg), call.func.attr


def prediction(row, picture, label, top5=(), margin=0.5):
    return json.dumps({"hit1": True, "margin": margin, "path": str(picture), "predicted": label, "row": row, "template": "",
                       "probabilities": [margin, 0.0], "top5": list(top5)})


def demo(changed_neighbours=0, changed_zero_shot=0):
    lines = [prediction("10-shot", i, "b" if i < changed_neighbours else "a") for i in range(200)]
    lines += [prediction("Zero-shot", i, "b" if i < changed_zero_shot else "a") for i in range(200)]
    lines += [prediction("Zero-shot, sigmoid", i, "a") for i in range(200)]
    return gpu.predicted(lines)


def test_only_the_predicted_label_counts():
    want = gpu.predicted([prediction("Zero-shot", 1, "a", top5="abc"), prediction("Zero-shot", 2, "b")])
    got = gpu.predicted([prediction("Zero-shot", 1, "a", top5="acb", margin=1e-07), prediction("Zero-shot", 2, "b")])
    assert want == got and gpu.demo_verdict(want, got, "bf16")[1]


@pytest.mark.parametrize("neighbours, zero_shot, precision, good", [
    (0, 0, "bf16", True), (1, 2, "bf16", True), (2, 0, "bf16", False), (0, 3, "fp16", False), (3, 6, "fp8", True),
    (4, 0, "fp8", False), (0, 7, "fp8", False)])
def test_near_ties_alone_may_change(neighbours, zero_shot, precision, good):
    text, verdict = gpu.demo_verdict(demo(), demo(neighbours, zero_shot), precision)
    assert verdict == good
    assert text == f"{neighbours} of 200 by neighbours and {zero_shot} of 400 zero-shot differ"


def test_a_missing_prediction_is_a_failure():
    got = dict(list(demo().items())[1:])
    assert gpu.demo_verdict(demo(), got, "bf16") == ("599 predictions, expected 600", False)


def test_a_check_that_breaks_fails_alone(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(gpu, "run_gpu_tests", lambda build: 1 // 0)
    monkeypatch.setattr(gpu, "same_demo_predictions", lambda build: True)
    monkeypatch.setattr(gpu, "fidelity", lambda build, size, layers, outliers: seen.append((size, outliers)) or True)
    assert not gpu.verify(argparse.Namespace(build="build/cuda"))
    assert seen == [("base-224", 0), ("base-224", 8), ("so400m", 0), ("so400m", 8)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "GPU tests: FAIL" and len(lines) == 6 and all(line.endswith(": pass") for line in lines[1:])
