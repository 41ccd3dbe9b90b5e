#!/usr/bin/env python3
"""What e4m3 costs in the blocks' linear layers, simulated in torch: 1 - cosine to float32, by the layers that have it.

    .venv/oracle/bin/python tools/simulate_fp8.py CHECKPOINT        (of tools/make_random_checkpoint.py, say)

Factors are rounded as the GPU engine rounds them, a scale for each token and each output; sums are float32. The table of
docs/adr/0007-gpu-engine.md.
"""

import argparse
import copy

import torch
import transformers

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
        if isinstance(module, torch.nn.Linear) and ".encoder.layers." in name and name.rsplit(".", 1)[1] in names:
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
    return model


@torch.no_grad()
def embeddings(model, pixels, ids):
    return (model.vision_model(pixel_values=pixels).pooler_output.double(),
            model.text_model(input_ids=ids).pooler_output.double())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--seed", type=int, default=1, help="of pictures and texts")
    args = parser.parse_args()
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
