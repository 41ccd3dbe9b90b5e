#!/usr/bin/env python3
"""Writes a checkpoint with seeded random weights, in the Hugging Face format and by transformers itself.

    python3 tools/make_random_checkpoint.py --size so400m --outliers 8 OUT      (requirements-oracle.txt)

For benchmarks and oracles at real sizes: the real weights are not needed to measure speed or rounding. With
--outliers N, N channels of the residual stream are made violently large in every layer, as trained vision
transformers have them. The tokenizer is the demo's.
"""

import argparse
import json
import pathlib
import shutil

import torch
import transformers

SIZES = {
    "tiny": ({"hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3},
             {"image_size": 45, "patch_size": 14}),
    "base-224": ({}, {"image_size": 224, "patch_size": 16}),
    "base-384": ({}, {"image_size": 384, "patch_size": 16}),
    "large-256": ({"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
                  {"image_size": 256, "patch_size": 16}),
    "so400m": ({"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16},
               {"image_size": 384, "patch_size": 14}),
}


def make_model(size, layers=None, seed=0, outliers=0, vocabulary=32000, positions=64):
    """A SiglipModel of one of SIZES; weights keep activations near 1, as in a trained network."""
    torch.manual_seed(seed)
    shared, vision = SIZES[size]
    shared = dict(shared)
    if layers:
        shared["num_hidden_layers"] = layers
    config = transformers.SiglipConfig(
        vision_config={**shared, **vision},
        text_config={**shared, "vocab_size": vocabulary, "max_position_embeddings": positions,
                     "projection_size": shared.get("hidden_size", 768)},
    )
    model = transformers.SiglipModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "embedding" not in name and "probe" not in name:
                weight.normal_(0, weight[0].numel() ** -0.5)
            elif "embedding" in name and weight.ndim == 2:
                weight.normal_(0, 0.5)
            elif name.endswith("norm1.weight") or name.endswith("norm2.weight") or "layernorm.weight" in name:
                weight.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                weight.normal_(0, 0.1)
        for tower in (model.vision_model, model.text_model):
            width = tower.config.hidden_size
            chosen = torch.randperm(width)[:outliers]
            for layer in tower.encoder.layers:
                layer.mlp.fc2.weight[chosen] *= 60
                layer.mlp.fc2.bias[chosen] *= 60
        model.logit_scale.fill_(4.7)
        model.logit_bias.fill_(-16.5)
    return model.eval()


def write(model, out, dtype="float32", shard_size="50GB"):
    """The snapshot folder: weights, configs, and the demo's tokenizer."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model.to(getattr(torch, dtype)).save_pretrained(out, max_shard_size=shard_size)
    demo = pathlib.Path(__file__).resolve().parents[1] / "models/demo"
    for name in ("spiece.model", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(demo / name, out / name)
    size = model.config.vision_config.image_size
    text = (out / "preprocessor_config.json").read_text()
    settings = json.loads(text)
    settings["size"] = {"height": size, "width": size}
    (out / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    settings = json.loads((out / "tokenizer_config.json").read_text())
    settings["model_max_length"] = model.config.text_config.max_position_embeddings
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--size", choices=SIZES, default="so400m")
    parser.add_argument("--layers", type=int, help="fewer layers than the real size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outliers", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--shard-size", default="50GB")
    args = parser.parse_args()
    write(make_model(args.size, args.layers, args.seed, args.outliers), args.out, args.dtype, args.shard_size)


if __name__ == "__main__":
    main()
