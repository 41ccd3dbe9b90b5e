#!/usr/bin/env python3
"""Embeddings against transformers in float64, with transformers' own float32 run as the measure.

    SIGLIP_BUILD_DIR=build/ci python3 tests/oracle/engine_oracle.py [--size tiny base-224 so400m] [--layers N]
                                                                    [--random 40] [--seed 1] [--isa all]

Named sizes: random weights with and without planted outlier channels, in F32, F16 and BF16. Random ones: seeded
architectures of odd widths, heads, MLPs, grids, text lengths and files (sharded, short configs, other means and
filters), every third of them NaFlex. Each with every instruction set of this machine. Bar: relative L2 error at most twice that of transformers'
float32 run (tiny and random ones: of the largest of five, see theirs; below FLOOR the ratio of two rounding errors says
nothing); cosine >= 0.999999 on well-conditioned weights; and the same bits whatever the batch and the threads.
First, which preprocessors that switch steps, crop or pad are refused, and which that are of another class; which values
of config.json; and folders whose weights have other names, types and places.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

import numpy as np
import safetensors.torch
import torch
import transformers
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIGLIP = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/cli/siglip"
sys.path.insert(0, str(ROOT / "tools"))
import make_random_checkpoint as checkpoints  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TEXTS = ["a photo of a red circle", "", "seven " * 50, "A Photo, of a BLUE square!", "</s> x", "zero one two"]
FLOOR = 5e-7  # eight roundings of float32
VOCABULARY = 160  # of the demo's tokenizer, which random ones get
NAFLEX_VOCABULARY = 1158  # of tests/golden/text/gemma
SETTINGS = [{}, {}, {"resample": 2}, {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
            {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}]


def relative_l2(got, exact):
    return (np.linalg.norm(got - exact, axis=1) / np.linalg.norm(exact, axis=1)).max()


def cosine(a, b):
    return ((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min()


def instruction_sets(wanted):
    version = subprocess.run([SIGLIP, "--version"], check=True, capture_output=True, text=True).stdout
    here = re.search(r"kernels: (.*?) \(", version).group(1).split(", ")
    return {"auto": here[:1], "all": here}.get(wanted, [wanted])


def make_images(folder):
    rng = np.random.default_rng(1)
    paths = []
    for i, (width, height) in enumerate([(60, 40), (60, 60), (1, 1), (33, 200), (7, 500), (300, 90)]):
        paths.append(folder / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def ours(folder, paths, isa, *options):
    texts = [item for text in TEXTS for item in ("--text", text)]
    out = folder / "out.npy"
    subprocess.run([SIGLIP, "embed", "--model", folder, *paths, *texts, "-q", "--isa", isa, *options, "-o", out], check=True)
    return np.load(out)


def prepare(folder, config, paths):
    """Contract: x / 255 in float32, as SiglipImageProcessorPil's float64 product rounded; then mean and std."""
    images = [Image.open(path).convert("RGB") for path in paths]
    if checkpoints.is_naflex(config):
        processor = transformers.models.siglip2.image_processing_pil_siglip2.Siglip2ImageProcessorPil.from_pretrained(folder)
        return processor(images, return_tensors="pt")
    processor = transformers.models.siglip.image_processing_pil_siglip.SiglipImageProcessorPil.from_pretrained(folder)
    return processor(images, return_tensors="pt")


def token_ids(folder, config):
    """Of TEXTS: cut, and padded on the side that the folder says."""
    siglip2 = not (folder / "spiece.model").exists()
    tokenizer = (transformers.Siglip2Tokenizer if siglip2 else transformers.SiglipTokenizer).from_pretrained(folder)
    length = min(config.text_config.max_position_embeddings, tokenizer.model_max_length)
    return tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")["input_ids"]


def say_sides(folder, padding, truncation):
    """In tokenizer_config.json; None: nothing, and the class decides."""
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "padding_side": padding, "truncation_side": truncation}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def nest_preprocessor(folder):
    """As transformers 5's processors write it."""
    path = folder / "preprocessor_config.json"
    nested = {"image_processor": json.loads(path.read_text()), "processor_class": "SiglipProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    path.unlink()


def reorder_channels(tower, order):
    """The same network with its residual stream in another order: other roundings, equal but for them."""
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            if re.search(r"(out_proj|fc2|norm\d?|patch_embedding)\.", name):
                weight.copy_(weight[order].clone())
            elif re.search(r"(token_embedding|position_embedding|[qkv]_proj|fc1|^head)\.weight|in_proj_weight|probe", name):
                weight.copy_(weight[..., order].clone())


def forward(model, inputs, ids, precision):
    checkpoints.resize_positions_in(precision)
    with torch.no_grad():
        # One at a time: at so400m's depth a batch in float64 costs gigabytes.
        image = []
        for i in range(len(inputs["pixel_values"])):
            one = {name: values[i:i + 1] for name, values in inputs.items()}
            one["pixel_values"] = one["pixel_values"].to(precision)
            image.append(model.vision_model(**one).pooler_output)
        return torch.cat(image).double().numpy(), model.text_model(input_ids=ids).pooler_output.double().numpy()


def theirs(folder, paths, orders):
    """Of transformers: embeddings (images, texts) in float64, and the relative L2 errors of float32, for each tower those
    of `orders` runs. A narrow network has few roundings, and one run of them is luck; the same network with
    its channels reordered is another draw."""
    config = transformers.AutoConfig.from_pretrained(folder)
    ids = token_ids(folder, config)
    pixels = prepare(folder, config, paths)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval().double()
    exact = forward(model, pixels, ids, torch.float64)
    model = model.float()  # exact: the values came from float32
    errors = []
    vision = torch.arange(config.vision_config.hidden_size)
    for i in range(orders):
        image, text = forward(model, pixels, ids, torch.float32)
        errors.append((relative_l2(image[:, vision.argsort()], exact[0]), relative_l2(text, exact[1])))
        if i + 1 < orders:
            order = torch.randperm(len(vision))
            vision = vision[order]
            reorder_channels(model.vision_model, order)
            reorder_channels(model.text_model, torch.randperm(config.text_config.hidden_size))
    return exact, list(zip(*errors))


def compare(folder, name, isas, outliers, images=6, orders=5):
    paths = make_images(folder)[:images]
    exact, measures = theirs(folder, paths, orders)
    passed = True
    for isa in isas:
        got = ours(folder, paths, isa, "--precision", "fp32")
        if not np.array_equal(got, ours(folder, paths, isa, "--precision", "fp32", "--threads", "1", "--engine-batch-size", "1",
                                        "--batch-size", "1")):
            print(f"{name} {isa}: batch and threads change the bits FAIL", flush=True)
            passed = False
        parts = got[:len(paths)].astype(np.float64), got[len(paths):].astype(np.float64)
        for tower, mine, want, errors in zip(("vision", "text"), parts, exact, measures):
            near, measure = cosine(mine, want), max(errors)
            mine = relative_l2(mine, want)
            good = mine <= max(2 * measure, FLOOR) and (outliers > 0 or near >= 0.999999)
            passed &= good
            print(f"{name} {isa} {tower}: relative L2 {mine:.3e}, transformers float32 {measure:.3e} (median of "
                  f"{len(errors)}: {np.median(errors):.3e}), ratio {mine / measure:.2f}, cosine {near:.9f} {'ok' if good else 'FAIL'}", flush=True)
    return passed


def compare_named(size, layers, isas, orders):
    passed = True
    for outliers, dtype in ((0, "float32"), (4, "float32"), (0, "float16"), (0, "bfloat16")):
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            architecture = checkpoints.named_architecture(size, layers)
            checkpoints.write(checkpoints.make_model(architecture, outliers=outliers), folder, dtype,
                              siglip2=size.startswith("siglip2-"))
            passed &= compare(folder, f"{size} {dtype} outliers {outliers}", isas, outliers, images=2, orders=orders)
    return passed


def compare_random(seed, isas):
    draw = random.Random(seed)
    naflex = seed % 3 == 0
    architecture = (checkpoints.random_naflex_architecture(draw, NAFLEX_VOCABULARY) if naflex else
                    checkpoints.random_architecture(draw, VOCABULARY))
    outliers = draw.choice([0, 0, 0, 3])
    dtype = draw.choice(["float32", "float32", "float16", "bfloat16"])
    shards = draw.choice(["50GB", "100KB"])
    short, key = draw.choice([False, True, True]), draw.choice(["torch_dtype", "dtype"])
    length = draw.choice([None, None, int(1e30), draw.randint(1, 64)])
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        model = checkpoints.make_model(architecture, seed, outliers)
        settings = draw.choice(SETTINGS) | ({"max_num_patches": draw.choice([1, 5, 64, 100, 256])} if naflex else {})
        checkpoints.write(model, folder, dtype, shards, settings, length, siglip2=naflex)
        sides = draw.choice(["right", "right", "left", None]), draw.choice([None, None, "left"])
        say_sides(folder, *sides)
        nested = draw.choice([False, True])
        if nested:
            nest_preprocessor(folder)
        if short:
            checkpoints.shorten_config(folder, key)
        vision, text = ({k: v for k, v in part.items()} for part in architecture)
        print(f"seed {seed}: vision {vision}\n  text {text}\n  model_max_length {length}, {len(list(folder.glob('*.safetensors')))} "
              f"files, {'short config, ' + key if short else 'full config'}, padding and truncation {sides}"
              f"{', processor_config.json' if nested else ''}", flush=True)
        return compare(folder, f"seed {seed} {dtype} outliers {outliers}", isas, outliers)


@contextlib.contextmanager
def folder_with(base, files, without=()):
    """A folder that is `base` but for `files`, text or bytes by name, and those that it is to lack."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for path in base.iterdir():
            if path.name not in files and path.name not in without:
                (folder / path.name).symlink_to(path)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        yield folder


def folder_with_preprocessor(base, settings):
    return folder_with(base, {"preprocessor_config.json": json.dumps(settings)})


def check_frames():
    """A step that is switched, and a crop or pad after the resize, are refused where they change transformers' pixels (or it
    fails), and only there. Texts, which Python takes for true, are refused."""
    demo = ROOT / "models/demo"
    plain = json.loads((demo / "preprocessor_config.json").read_text())
    side, wrong = plain["size"]["height"], []
    sizes = [None, side, side + 2, [side, side], [side, side + 2], {"height": side, "width": side},
             {"height": side, "width": side - 2}, {"shortest_edge": side}]
    cases = [{step: enabled, **({} if size is None else {key: size})}
             for step, key in (("do_center_crop", "crop_size"), ("do_pad", "pad_size"))
             for enabled in (True, False, None, 1, 0) for size in sizes]
    cases += [{step: enabled} for step in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
              for enabled in (True, False, None, 1, 0, 1.0, 0.0, 2)]
    picture = [Image.open(demo / "../../data/demo/examples/red_circle.jpg").convert("RGB")]
    processor = transformers.models.siglip.image_processing_pil_siglip.SiglipImageProcessorPil
    expected = processor.from_pretrained(demo)(picture, return_tensors="np")["pixel_values"]
    for case in cases:
        with folder_with_preprocessor(demo, plain | case) as folder:
            try:
                same = np.array_equal(processor.from_pretrained(folder)(picture, return_tensors="np")["pixel_values"], expected)
            except (ValueError, TypeError, KeyError, AttributeError):
                same = False
            run = subprocess.run([SIGLIP, "inspect", folder], capture_output=True, text=True)
            if (run.returncode == 0) != same:
                wrong.append(f"frame {case}: transformers {'ignores' if same else 'follows or refuses'} it, here {run.stdout}")
    print(f"{len(cases)} frames of the preprocessor, {len(wrong)} other than transformers'", *wrong, sep="\n", flush=True)
    return not wrong


def check_classes():
    """Another class of image processor is refused where transformers takes it, and refuses the folder or makes other pixels."""
    kinds = [(ROOT / "models/demo", "Siglip", transformers.models.siglip.image_processing_pil_siglip.SiglipImageProcessorPil),
             (ROOT / "tests/golden/naflex", "Siglip2", transformers.models.siglip2.image_processing_pil_siglip2.Siglip2ImageProcessorPil)]
    wrong, count = [], 0
    for base, own, kind in kinds:
        plain = json.loads((base / "preprocessor_config.json").read_text())
        del plain["image_processor_type"], plain["resample"]
        cases = [{}, {"image_processor_type": None}]
        for name in ("Siglip", "Siglip2", "ViT", "CLIP", "Unknown"):
            cases += [{"image_processor_type": name + end} for end in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil")]
            cases += [{"feature_extractor_type": f"{name}FeatureExtractor"},
                      {"feature_extractor_type": f"{name}FeatureExtractor", "image_processor_type": f"{own}ImageProcessor"}]
        for case in cases:
            count += 1
            with folder_with_preprocessor(base, plain | case) as folder:
                try:
                    same = type(transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")) is kind
                except (ValueError, AttributeError):
                    same = False
                run = subprocess.run([SIGLIP, "inspect", folder], capture_output=True, text=True)
                if (run.returncode == 0) != same:
                    wrong.append(f"{own} {case}: transformers {'takes its own class' if same else 'does not'}, here {run.stdout}")
    print(f"{count} classes of image processors, {len(wrong)} other than transformers'", *wrong, sep="\n", flush=True)
    return not wrong


def check_values():
    """A value in config.json that transformers takes is taken, one that it refuses is refused."""
    demo = ROOT / "models/demo"
    plain = json.loads((demo / "config.json").read_text())
    sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    keys = {"text_config": [*sizes, "vocab_size", "max_position_embeddings", "projection_size"],
            "vision_config": [*sizes, "num_channels", "image_size", "patch_size"]}
    cases = []
    for tower, names in keys.items():
        for name in names:
            right = plain[tower].get(name, getattr(transformers.AutoConfig.from_pretrained(demo), tower).to_dict()[name])
            cases += [(tower, name, value) for value in (right, None, float(right), str(right), True, [right])]
        cases += [(tower, "layer_norm_eps", value) for value in (1e-6, 1e-5, 0.0, None, 0, 1, "1e-6", True)]
        cases += [(tower, "hidden_act", value) for value in ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", None, 1, ["gelu"])]
    cases += [("vision_config", "vision_use_head", value) for value in (True, None, 1, "true")]
    cases += [(None, tower, value) for tower in keys for value in ([], "x", 1)]
    cases += [(None, "model_type", value) for value in (None, 1, "siglip_vision_model", "Siglip")]
    wrong = []
    for tower, name, value in cases:
        config = json.loads(json.dumps(plain))
        (config[tower] if tower else config)[name] = value
        with folder_with(demo, {"config.json": json.dumps(config)}) as folder:
            try:
                taken = type(transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)) is transformers.SiglipModel
            except Exception:  # of any kind: it is not taken
                taken = False
            run = subprocess.run([SIGLIP, "inspect", folder], capture_output=True, text=True)
            if (run.returncode == 0) != taken or not (taken or name in run.stdout):
                wrong.append(f"{tower} {name} = {value!r}: transformers {'takes' if taken else 'refuses'} it, here {run.stdout}")
    print(f"{len(cases)} values of config.json, {len(wrong)} other than transformers'", *wrong, sep="\n", flush=True)
    return not wrong


def check_weights():
    """Other names, types and places of the same weights: taken as transformers takes them, and the same numbers."""
    demo = ROOT / "models/demo"
    weights = safetensors.torch.load_file(demo / "model.safetensors")
    halves = dict(list(weights.items())[::2]), dict(list(weights.items())[1::2])
    odd = {"extra": torch.zeros(3, dtype=torch.complex64), "other": torch.zeros(5).to(torch.float8_e4m3fn)}
    index = {name: f"parts/{i}/x.safetensors" for i, half in enumerate(halves) for name in half}
    cases = {
        "as it is": {"model.safetensors": weights},
        "siglip. in front": {"model.safetensors": {f"siglip.{name}": weight for name, weight in weights.items()}},
        "siglip. in front of some": {"model.safetensors": halves[0] | {f"siglip.{name}": weight for name, weight in halves[1].items()}},
        "model. in front": {"model.safetensors": {f"model.{name}": weight for name, weight in weights.items()}},
        "C64 and F8 beside it": {"model.safetensors": weights | odd},
        "a classifier": {"model.safetensors": {name: weight for name, weight in weights.items() if name.startswith("vision_model.")}},
        "shards below": {f"parts/{i}/x.safetensors": half for i, half in enumerate(halves)} | {"model.safetensors.index.json": {
            "metadata": {"total_size": 1}, "weight_map": index}},
    }
    wrong, expected = [], None
    for name, files in cases.items():
        content = {path: json.dumps(value) if path.endswith(".json") else safetensors.torch.save(value) for path, value in files.items()}
        with folder_with(demo, content, without=["model.safetensors"]) as folder:
            model, told = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
            taken = not told["missing_keys"] and all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())
            run = subprocess.run([SIGLIP, "embed", "-q", "--model", folder, "--precision", "fp32", "--text", "a"],
                                 capture_output=True, text=True)
            expected = expected or run.stdout
            if (run.returncode == 0) != taken or taken and run.stdout != expected:
                wrong.append(f"{name}: transformers {'takes' if taken else 'does not take'} it, here {run.stdout[:100]} {run.stderr}")
    print(f"{len(cases)} forms of the weights, {len(wrong)} other than transformers'", *wrong, sep="\n", flush=True)
    return not wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="*", choices=checkpoints.SIZES, default=["tiny", "base-224", "siglip2-naflex-tiny"])
    parser.add_argument("--layers", type=int)
    parser.add_argument("--orders", type=int, help="runs of transformers for a named size, of which the largest error counts; default: 5 if it is tiny, else 1")
    parser.add_argument("--random", type=int, default=40, help="how many random architectures")
    parser.add_argument("--seed", type=int, default=1, help="of the first of them")
    parser.add_argument("--isa", default="all", help="all, auto or one")
    args = parser.parse_args()
    isas = instruction_sets(args.isa)
    checkpoints.mend_interpolation()
    failed = [] if check_frames() else ["frames"]
    failed += [] if check_classes() else ["classes"]
    failed += [] if check_values() else ["values"]
    failed += [] if check_weights() else ["weights"]
    failed += [size for size in args.size if not compare_named(size, args.layers, isas, args.orders or (5 if "tiny" in size else 1))]
    failed += [seed for seed in range(args.seed, args.seed + args.random) if not compare_random(seed, isas)]
    print(f"failed: {failed}" if failed else "all within the bar")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
