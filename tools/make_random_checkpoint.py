#!/usr/bin/env python3
"""Writes a checkpoint with seeded random weights, in the Hugging Face format and by transformers itself.

    python3 tools/make_random_checkpoint.py --size so400m --outliers 8 OUT      (requirements-oracle.txt)

For benchmarks and oracles at real sizes: the real weights are not needed to measure speed or rounding. With
--outliers N, N channels of the residual stream are made violently large in every layer, as trained vision
transformers have them. The tokenizer is the demo's; of sizes named siglip2-, the small one of the goldens in the form
of SigLIP 2. Sizes with num_patches instead of image_size are NaFlex.
"""

import argparse
import json
import pathlib
import shutil

import torch
import transformers

SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
# What both towers have; what the vision has; what the text has otherwise.
SIZES = {
    "tiny": ({"hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3},
             {"image_size": 45, "patch_size": 14}),
    "base-224": ({}, {"image_size": 224, "patch_size": 16}),
    "base-384": ({}, {"image_size": 384, "patch_size": 16}),
    "large-256": ({"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
                  {"image_size": 256, "patch_size": 16}),
    "so400m": (SO400M, {"image_size": 384, "patch_size": 14}),
    "siglip2-base-256-32": ({}, {"image_size": 256, "patch_size": 32}, {"vocab_size": 256000}),
    "siglip2-so400m-512": (SO400M, {"image_size": 512, "patch_size": 16}, {"vocab_size": 256000}),
    "siglip2-naflex-tiny": ({"hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3},
                            {"num_patches": 49, "patch_size": 7}, {"vocab_size": 2000}),
    "siglip2-base-naflex": ({}, {"num_patches": 256, "patch_size": 16}, {"vocab_size": 256000}),
    "siglip2-so400m-naflex": (SO400M, {"num_patches": 256, "patch_size": 16}, {"vocab_size": 256000}),
    # The text tower is so400m's.
    "siglip2-giant-384": ({"hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 40, "num_attention_heads": 16},
                          {"image_size": 384, "patch_size": 16}, {**SO400M, "vocab_size": 256000}),
}


def named_architecture(size, layers=None, vocabulary=32000, positions=64):
    """(vision_config, text_config) of one of SIZES."""
    shared, vision, *other = SIZES[size]
    vision = {**shared, **vision}
    text = {"vocab_size": vocabulary, "max_position_embeddings": positions, **shared, **dict(*other),
            "projection_size": vision.get("hidden_size", 768)}
    for tower in (vision, text):
        if layers:
            tower["num_hidden_layers"] = layers
    return vision, text


def random_tower(random):
    """Widths, heads and MLPs that fit no vector and no tile; now and then a class default."""
    if random.random() < 0.08:
        return {"num_hidden_layers": random.randint(1, 2)}  # 768 wide, 12 heads, MLP 3072
    head_dim = random.choice([1, 2, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 32, 33, 40, 47, 48, 63, 64, 65, 72, 80, 88, 96])
    heads = random.choice([1, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16])
    heads = max(2 if head_dim == 1 else 1, min(heads, 800 // head_dim))  # one number alone has no layer norm
    width = heads * head_dim
    middle = random.choice([random.randint(1, 4 * width + 3), 4 * width, 4 * width - 1, 3 * width + 1])
    return {"hidden_size": width, "intermediate_size": middle, "num_attention_heads": heads,
            "num_hidden_layers": random.randint(1, 4), "layer_norm_eps": random.choice([1e-6, 1e-6, 1e-5, 1e-12])}


def random_naflex_architecture(random, vocabulary):
    """The same of NaFlex."""
    vision, text = random_architecture(random, vocabulary)
    del vision["image_size"]
    return vision | {"num_patches": random.choice([1, 2, 3, 5, 8, 16]) ** 2}, text


def random_architecture(random, vocabulary):
    """(vision_config, text_config) of a SigLIP 1 as nobody publishes it; at least `vocabulary` token embeddings."""
    vision, text = random_tower(random), random_tower(random)
    patch = random.choice([1, 2, 3, 5, 7, 8, 14, 14, 14, 16, 16, 16, 20, 32])
    grid = random.choice([1, 1, 2, 3, 4, 5, 7, 9, 11, 13, 17])
    vision |= {"patch_size": patch, "image_size": patch * grid + random.choice([0, random.randrange(patch)])}
    text |= {"vocab_size": vocabulary + random.choice([0, 1, 13, 1000]),
             "max_position_embeddings": random.choice([1, 2, 7, 16, 33, 64, random.randint(1, 90)]),
             "projection_size": vision.get("hidden_size", 768)}
    return vision, text


def make_model(architecture, seed=0, outliers=0):
    """A SiglipModel of (vision_config, text_config), or a Siglip2Model (NaFlex) if the vision has num_patches; weights
    keep activations near 1, as in a trained network."""
    torch.manual_seed(seed)
    vision, text = architecture
    if "num_patches" in vision:
        model = transformers.Siglip2Model(transformers.Siglip2Config(vision_config=vision, text_config=text))
    else:
        model = transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            naflex_patches = name.endswith("patch_embedding.weight") and weight.ndim == 2
            if naflex_patches or weight.ndim >= 2 and "embedding" not in name and "probe" not in name:
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


_positions_dtype = torch.float32


def resize_positions_in(dtype):
    """From now on, where mend_interpolation() was called. transformers resizes positions in float32 on a CPU, also those
    of a model in float64."""
    global _positions_dtype  # pylint: disable=global-statement
    _positions_dtype = dtype


def mend_interpolation():
    """torch 2.15 resizes wrongly on a CPU if the result is one column wide: each row gets what is the first one's
    (F.interpolate with antialias). The same one row high is right, so transformers' positions go that way here."""
    interpolate = torch.nn.functional.interpolate

    def mended(values, size, **options):
        values = values.to(_positions_dtype)  # of a model in this type: what came through float32 is exact
        if size[1] != 1:
            return interpolate(values, size=size, **options)
        return interpolate(values.transpose(-1, -2), size=(1, size[0]), **options).transpose(-1, -2)
    transformers.models.siglip2.modeling_siglip2.F = type("F", (), {
        **vars(torch.nn.functional), "interpolate": staticmethod(mended)})


def is_naflex(config):
    return config.model_type == "siglip2"


def write(model, out, dtype="float32", shard_size="50GB", preprocessor=None, max_length=None, siglip2=False):
    """The snapshot folder: weights, configs, and the demo's tokenizer. `preprocessor` overrides its settings,
    `max_length` model_max_length. `siglip2`: a tokenizer, a filter and a length as SigLIP 2 has them."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model.to(getattr(torch, dtype)).save_pretrained(out, max_shard_size=shard_size)
    root = pathlib.Path(__file__).resolve().parents[1]
    shutil.copy(root / "models/demo/preprocessor_config.json", out)
    tokenizer = root / ("tests/golden/text/gemma" if siglip2 else "models/demo")
    for name in ("tokenizer.json" if siglip2 else "spiece.model", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, out / name)
    text = (out / "preprocessor_config.json").read_text()
    settings = json.loads(text)
    if is_naflex(model.config):
        del settings["size"]
        settings |= {"image_processor_type": "Siglip2ImageProcessor", "patch_size": model.config.vision_config.patch_size,
                     "max_num_patches": 256}
    else:
        size = model.config.vision_config.image_size
        settings["size"] = {"height": size, "width": size}
    settings.update({"resample": 2} if siglip2 else {})
    settings.update(preprocessor or {})
    (out / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    settings = json.loads((out / "tokenizer_config.json").read_text())
    if siglip2 and not max_length:
        max_length = settings["model_max_length"]
    settings["model_max_length"] = max_length or model.config.text_config.max_position_embeddings
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def shorten_config(folder, dtype_key):
    """config.json as the published ones are: no value that equals the class default; `torch_dtype` or `dtype`."""
    path = pathlib.Path(folder) / "config.json"
    full = json.loads(path.read_text())
    short = {key: full[key] for key in ("architectures", "model_type", "initializer_factor") if key in full}
    short[dtype_key] = full["dtype"]
    naflex = full["model_type"] == "siglip2"
    for part, defaults in (
            ("vision_config", transformers.Siglip2VisionConfig() if naflex else transformers.SiglipVisionConfig()),
            ("text_config", transformers.Siglip2TextConfig() if naflex else transformers.SiglipTextConfig())):
        defaults = {**defaults.to_dict(), "projection_size": full["text_config"]["hidden_size"]}
        short[part] = {key: value for key, value in full[part].items() if key == "model_type" or value != defaults.get(key)}
    path.write_text(json.dumps(short, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--size", choices=SIZES, default="so400m")
    parser.add_argument("--layers", type=int, help="fewer layers than the real size")
    parser.add_argument("--tower", choices=["vision", "text"], help="the other tower has one layer only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outliers", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--shard-size", default="50GB")
    args = parser.parse_args()
    vision, text = named_architecture(args.size, args.layers)
    if args.tower:
        (text if args.tower == "vision" else vision)["num_hidden_layers"] = 1
    write(make_model((vision, text), args.seed, args.outliers), args.out, args.dtype, args.shard_size,
          siglip2=args.size.startswith("siglip2-"))


if __name__ == "__main__":
    main()
