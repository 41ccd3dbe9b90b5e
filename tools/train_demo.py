#!/usr/bin/env python3
"""Trains models/demo, a small SigLIP in exactly the Hugging Face format, and writes data/demo.

    python3 tools/train_demo.py [--steps N] [--model models/demo] [--data data/demo]

Needs tools/setup/requirements-oracle.txt. About 15 minutes on two cores. What was measured on the held-out
pictures goes into the model's README.md.
"""

import argparse
import copy
import json
import os
import pathlib
import platform
import time

import numpy as np
import PIL
import sentencepiece
import sklearn
import torch
import transformers
from PIL import Image
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

import demo_data as demo

IMAGE_SIZE, PATCH, WIDTH, MLP, HEADS = 48, 8, 128, 384, 4
VISION_LAYERS, TEXT_LAYERS, TEXT_LENGTH, VOCABULARY = 4, 2, 32, 700
SHOTS, VALID_PER_CLASS = 10, 20


def preprocess(image):
    """What the product does: Pillow's RGB and bicubic squash; uint8 here, normalised in `pixels`."""
    return np.asarray(image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.BICUBIC))


def pixels(batch):
    return (torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def train_tokenizer(folder):
    """An own SentencePiece model on the captions and some plain English; the ids 0..2 as in the real one."""
    words = "the of and to in is it that for was on are as with his they at be this from have or by had not but " \
            "what all were when we there can an your which their said if do will each about how up out them then she " \
            "many some so these would other into has more her two like him see time could no make than first been its " \
            "who now people my made over did down only way find use may water long little very after words called just " \
            "where most know cat dog bird fish tree house car boat sky sun moon hand face number letter colour small " \
            "large drawing handwritten digit shape background white black grey dark light".split()
    lines = [demo.caption(label, template).lower() for label in demo.CLASSES for template in demo.TEMPLATES]
    lines += [f"{a} {b}" for a in words for b in words[::9]]
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(lines * 2), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), vocab_size=VOCABULARY, hard_vocab_limit=False,
        model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>",
        normalization_rule_name="nmt_nfkc", character_coverage=1.0, num_threads=1, minloglevel=2,
    )
    corpus.unlink()
    (folder / "spiece.vocab").unlink()
    tokenizer = transformers.SiglipTokenizer(
        vocab_file=str(folder / "spiece.model"), model_max_length=TEXT_LENGTH, model_input_names=["input_ids"]
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_model(vocabulary):
    shared = {"hidden_size": WIDTH, "intermediate_size": MLP, "num_attention_heads": HEADS}
    config = transformers.SiglipConfig(
        text_config={**shared, "num_hidden_layers": TEXT_LAYERS, "vocab_size": vocabulary,
                     "max_position_embeddings": TEXT_LENGTH, "projection_size": WIDTH},
        vision_config={**shared, "num_hidden_layers": VISION_LAYERS, "image_size": IMAGE_SIZE, "patch_size": PATCH},
    )
    model = transformers.SiglipModel(config)
    with torch.no_grad():
        # With the class' own narrow initialisation the text tower never leaves the start.
        model.text_model.embeddings.token_embedding.weight.normal_(0, 0.3)
        model.logit_scale.fill_(np.log(10.0))
        model.logit_bias.fill_(-4.0)
    return model


def training_pool(per_digit, per_shape):
    """uint8 pictures at the model's size and their class indices."""
    rng = np.random.default_rng(demo.SEED + 1)
    images, labels, _, _ = demo.digit_split()
    pool, classes = [], []
    for image, label in zip(images, labels):
        for _ in range(per_digit):
            picture = demo.render_digit(image, rng)
            pool.append(preprocess(demo.through_jpeg(picture, 90) if rng.random() < 0.3 else picture))
            classes.append(label)
        pool.append(preprocess(demo.render_digit(image)))
        classes.append(label)
    for c, colour in enumerate(demo.COLOURS):
        for s, shape in enumerate(demo.SHAPES):
            for _ in range(per_shape):
                picture = demo.render_shape(colour, shape, rng)
                pool.append(preprocess(demo.through_jpeg(picture, 90) if rng.random() < 0.3 else picture))
                classes.append(10 + c * len(demo.SHAPES) + s)
    return np.stack(pool), np.array(classes)


def tokenize(tokenizer, texts, padded=True):
    if padded:
        return tokenizer(texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True,
                         return_tensors="pt")["input_ids"]
    return [torch.tensor([tokenizer(text, truncation=True, max_length=TEXT_LENGTH)["input_ids"]]) for text in texts]


def train(model, tokenizer, steps, batch, pool, classes):
    """SigLIP's sigmoid loss of pictures against one caption per class, templates drawn anew each step."""
    rng = np.random.default_rng(demo.SEED + 2)
    ids = {t: tokenize(tokenizer, [demo.caption(c, t) for c in demo.CLASSES]) for t in demo.TEMPLATES}
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.2e-3, total_steps=steps, pct_start=0.08)
    average = copy.deepcopy(model)
    digits, shapes = np.flatnonzero(classes < 10), np.flatnonzero(classes >= 10)
    start = time.time()
    for step in range(steps):
        chosen = np.concatenate([rng.choice(digits, batch * 5 // 8), rng.choice(shapes, batch * 3 // 8)])
        truth = torch.from_numpy(classes[chosen])
        templates = rng.integers(0, len(demo.TEMPLATES), len(demo.CLASSES))
        texts = torch.stack([ids[demo.TEMPLATES[t]][c] for c, t in enumerate(templates)])
        image = torch.nn.functional.normalize(model.vision_model(pixel_values=pixels(pool[chosen])).pooler_output)
        text = torch.nn.functional.normalize(model.text_model(input_ids=texts).pooler_output)
        logits = image @ text.T * model.logit_scale.exp() + model.logit_bias
        sign = -torch.ones_like(logits)
        sign[torch.arange(len(truth)), truth] = 1
        loss = -torch.nn.functional.logsigmoid(sign * logits).sum() / len(truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            keep = min(0.998, (step + 1) / (step + 10))
            for mean, value in zip(average.parameters(), model.parameters()):
                mean.lerp_(value, 1 - keep)
        if step % 100 == 0 or step + 1 == steps:
            hits = (logits.argmax(1) == truth).float().mean().item()
            print(f"step {step:5d}  loss {loss.item():.4f}  batch top-1 {hits:.3f}  {time.time() - start:.0f} s", flush=True)
    return average


def write_data(folder):
    """The ImageNet layout: train/ holds the shots, valid/ the held-out pictures, both as JPEG files."""
    train_images, train_labels, valid_images, valid_labels = demo.digit_split()
    rng = np.random.default_rng(demo.SEED + 3)
    mapping = []
    for index, name in enumerate(demo.CLASSES):
        synset = f"n{index + 1:08d}"
        mapping.append(f"{synset} {name}")
        if index < 10:
            shots = [demo.render_digit(i) for i in train_images[train_labels == index][:SHOTS]]
            valid = [demo.render_digit(i) for i in valid_images[valid_labels == index][:VALID_PER_CLASS]]
        else:
            colour, shape = name.split()
            pictures = [demo.render_shape(colour, shape, rng, side=96) for _ in range(SHOTS + VALID_PER_CLASS)]
            shots, valid = pictures[:SHOTS], pictures[SHOTS:]
        for split, pictures in (("train", shots), ("valid", valid)):
            target = folder / split / synset
            target.mkdir(parents=True, exist_ok=True)
            for i, picture in enumerate(pictures):
                picture.save(target / f"{synset}_{i}.JPEG", quality=90)
    (folder / "LOC_synset_mapping.txt").write_text("\n".join(mapping) + "\n", encoding="utf-8")
    examples = folder / "examples"
    examples.mkdir(exist_ok=True)
    seven = valid_images[valid_labels == 7][1]
    demo.render_digit(seven).resize((224, 224), Image.BICUBIC).save(examples / "seven.png")
    demo.render_shape("red", "circle", np.random.default_rng(5), side=320).save(examples / "red_circle.jpg", quality=92)
    demo.render_shape("blue", "star", np.random.default_rng(8), side=240).save(examples / "blue_star.png")


@torch.no_grad()
def embed_images(model, images):
    return torch.cat([model.vision_model(pixel_values=pixels(images[i:i + 256])).pooler_output
                      for i in range(0, len(images), 256)]).double().numpy()


@torch.no_grad()
def embed_texts(model, tokenizer, texts, padded):
    if padded:
        return model.text_model(input_ids=tokenize(tokenizer, texts)).pooler_output.double().numpy()
    return np.concatenate([model.text_model(input_ids=ids).pooler_output.double().numpy()
                           for ids in tokenize(tokenizer, texts, padded=False)])


def knn_accuracy(fit, fit_labels, test, test_labels, group):
    """scikit-learn's kNN over all 40 classes; top-1 and top-5 on the test rows of a group."""
    knn = KNeighborsClassifier(n_neighbors=10, weights="distance", metric="cosine").fit(fit, fit_labels)
    scores = knn.predict_proba(test[group])
    labels = np.arange(len(demo.CLASSES))
    return [top_k_accuracy_score(test_labels[group], scores, k=k, labels=labels) for k in (1, 5)]


def evaluate(model, tokenizer, folder):
    """All held-out digits and the shapes of data/demo/valid, by the published method."""
    _, _, valid_images, valid_labels = demo.digit_split()
    synsets = [f"n{i + 1:08d}" for i in range(len(demo.CLASSES))]

    def load(split, first):
        paths = [(c, p) for c, s in enumerate(synsets) if c >= first for p in sorted((folder / split / s).glob("*.JPEG"))]
        return np.stack([preprocess(Image.open(p)) for _, p in paths]), np.array([c for c, _ in paths])

    shots, shot_labels = load("train", 0)
    shapes, shape_labels = load("valid", 10)
    digits = np.stack([preprocess(demo.through_jpeg(demo.render_digit(i), 90)) for i in valid_images])
    test = embed_images(model, np.concatenate([digits, shapes]))
    test_labels = np.concatenate([valid_labels, shape_labels])
    groups = {"digits": test_labels < 10, "shapes": test_labels >= 10}
    rows = []
    fit = embed_images(model, shots)
    rows.append(("10-shot", *[knn_accuracy(fit, shot_labels, test, test_labels, g) for g in groups.values()]))
    for template in demo.TEMPLATES[-3:]:
        for padded in (True, False):
            fit = embed_texts(model, tokenizer, [demo.caption(c, template) for c in demo.CLASSES], padded)
            name = f'zero-shot, "{template}"' + ("" if padded else ", not padded")
            rows.append((name, *[knn_accuracy(fit, np.arange(len(demo.CLASSES)), test, test_labels, g)
                                 for g in groups.values()]))
    lines = ["| validation | digits top-1 | top-5 | shapes top-1 | top-5 |", "|---|---|---|---|---|"]
    lines += [f"| {n} | {d[0]:.4f} | {d[1]:.4f} | {s[0]:.4f} | {s[1]:.4f} |" for n, d, s in rows]
    return "\n".join(lines), len(digits), len(shapes)


CARD = """# The demo checkpoint
A small but real SigLIP in exactly the Hugging Face format ({parameters:,} parameters, float32): it knows
handwritten digits (zero to nine) and coloured shapes ({colours}; {shapes}).

Vision: {image_size} px, patch {patch}, {vision_layers} layers of width {width}; text: {text_layers} layers, {vocabulary} pieces,
{text_length} positions. Trained by `tools/train_demo.py` with SigLIP's sigmoid loss on padded captions.

**Data.** scikit-learn's 1,797 digits, split by a fixed permutation: {train_digits} training, {valid_digits} validation;
shapes drawn by `tools/demo_data.py`, training and validation from different random streams. `data/demo/train`
holds {shots} shots per class from the training split, `data/demo/valid` {valid} held-out pictures per class.

**Measured** on the {digits} held-out digits and {shapes_n} held-out shapes, all 40 classes competing, with
scikit-learn's `KNeighborsClassifier(10, weights="distance", metric="cosine")` on float64 embeddings:

{table}

Made with: seed {seed}, {steps} steps of {batch}; Python {python}, torch {torch}, transformers {transformers},
sentencepiece {sentencepiece}, scikit-learn {sklearn}, Pillow {pillow}, numpy {numpy}.
Command: `python3 tools/train_demo.py --steps {steps}`.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--per-digit", type=int, default=25, help="augmented copies of each training digit")
    parser.add_argument("--per-shape", type=int, default=700, help="pictures of each of the 30 shapes")
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("models/demo"))
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data/demo"))
    args = parser.parse_args()
    torch.manual_seed(demo.SEED)
    torch.set_num_threads(os.cpu_count())
    args.model.mkdir(parents=True, exist_ok=True)

    tokenizer = train_tokenizer(args.model)
    write_data(args.data)
    model = make_model(len(tokenizer))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(tokenizer)} pieces; drawing the training pictures", flush=True)
    pool, classes = training_pool(args.per_digit, args.per_shape)
    print(f"{len(pool):,} training pictures", flush=True)
    model = train(model, tokenizer, args.steps, args.batch, pool, classes).eval()
    model.save_pretrained(args.model)
    (args.model / "preprocessor_config.json").write_text(json.dumps({
        "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5], "processor_class": "SiglipProcessor", "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    }, indent=2) + "\n", encoding="utf-8")

    loaded = transformers.SiglipModel.from_pretrained(args.model, dtype=torch.float32).eval()
    table, digits, shapes = evaluate(loaded, transformers.SiglipTokenizer.from_pretrained(args.model), args.data)
    print(table)
    (args.model / "README.md").write_text(CARD.format(
        parameters=parameters, colours=", ".join(demo.COLOURS), shapes=", ".join(demo.SHAPES), image_size=IMAGE_SIZE,
        patch=PATCH, vision_layers=VISION_LAYERS, width=WIDTH, text_layers=TEXT_LAYERS, vocabulary=len(tokenizer),
        text_length=TEXT_LENGTH, train_digits=1797 - demo.VALID_DIGITS, valid_digits=demo.VALID_DIGITS, shots=SHOTS,
        valid=VALID_PER_CLASS, digits=digits, shapes_n=shapes, table=table, seed=demo.SEED, steps=args.steps,
        batch=args.batch, python=platform.python_version(), torch=torch.__version__,
        transformers=transformers.__version__, sentencepiece=sentencepiece.__version__, sklearn=sklearn.__version__,
        pillow=PIL.__version__, numpy=np.__version__), encoding="utf-8")


if __name__ == "__main__":
    main()
