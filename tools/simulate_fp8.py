#!/usr/bin/env python3
"""What e4m3 costs in the blocks' linear layers, simulated in torch: 1 - cosine to float32, by the layers that have it.

    .venv/oracle/bin/python tools/simulate_fp8.py CHECKPOINT        (of tools/make_random_checkpoint.py, say)
    .venv/oracle/bin/python tools/simulate_fp8.py --demo            predictions of the demo's pictures that change instead

Factors are rounded as the GPU engine rounds them, a scale for each token and each output; sums are float32. The table of
docs/adr/0007-gpu-engine.md. With --demo torch's own bfloat16 beside it.
"""

import argparse
import copy
import pathlib
import sys

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/oracle"))
import validate_oracle  # noqa: E402

GROUPS = {"all": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"), "query, key, value": ("q_proj", "k_proj", "v_proj"),
          "output projection": ("out_proj",), "MLP": ("fc1", "fc2"), "fc1": ("fc1",), "fc2": ("fc2",)}
LARGEST = 448  # of e4m3


def rounded(rows):
    scale = rows.abs().amax(-1, keepdim=True) / LARGEST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (rows / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float() * scale


def with_fp8(model, names):
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "encoder.layers." in name and name.rsplit(".", 1)[1] in names:
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
    return model


@torch.no_grad()
def embeddings(model, pixels, ids):
    return (model.vision_model(pixel_values=pixels).pooler_output.double(),
            model.text_model(input_ids=ids).pooler_output.double())


def demo_predictions(oracle, data):
    """Labels of the valid pictures, by neighbours and by each template."""
    train, valid = oracle.images(data.files["train"]), oracle.images(data.files["valid"])
    fits = [(train, data.label_of["train"])]
    fits += [(oracle.texts(data.texts(template)), data.labels) for template in validate_oracle.TEMPLATES]
    predictions = []
    for rows, labels in fits:
        scores, classes = validate_oracle.knn(rows, labels, valid)
        predictions.append(classes[scores.argmax(1)])
    return predictions


def print_demo_changes():
    oracle = validate_oracle.Oracle(ROOT / "models/demo")
    data = validate_oracle.Dataset(ROOT / "data/demo")
    exact = demo_predictions(oracle, data)
    model = oracle.model
    bf16, fp8 = copy.deepcopy(model).bfloat16(), copy.deepcopy(model)
    fp8.vision_model = with_fp8(model.vision_model, GROUPS["MLP"])
    for name, other in (("torch bfloat16", bf16), ("e4m3 in the vision tower's MLP", fp8)):
        oracle.model = other
        changes = [int((got != want).sum()) for got, want in zip(demo_predictions(oracle, data), exact)]
        print(f"{name}: of {len(exact[0])} predictions {changes[0]} change by neighbours, {changes[1:]} by texts", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--seed", type=int, default=1, help="of pictures and texts")
    args = parser.parse_args()
    if args.demo == bool(args.checkpoint):
        parser.error("expected CHECKPOINT or --demo")
    if args.demo:
        print_demo_changes()
        return
    model = transformers.SiglipModel.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    text, side = model.config.text_config, model.config.vision_config.image_size
    generator = torch.Generator().manual_seed(args.seed)
    low = torch.rand(3, 3, 8, 8, generator=generator) * 2 - 1
    pixels = torch.nn.functional.interpolate(low, size=(side, side), mode="bicubic").clamp(-1, 1)
    ids = torch.randint(2, text.vocab_size, (3, text.max_position_embeddings), generator=generator)
    ids[:, 8:] = 1
    exact = embeddings(model, pixels, ids)
    print("| in e4m3 | vision | text |\n|---|---|---|")
    for group, names in GROUPS.items():
        errors = [1 - torch.nn.functional.cosine_similarity(got, want).min().item()
                  for got, want in zip(embeddings(with_fp8(model, names), pixels, ids), exact)]
        print(f"| {group} | {errors[0]:.1e} | {errors[1]:.1e} |", flush=True)


if __name__ == "__main__":
    main()
