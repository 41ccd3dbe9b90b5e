"""siglip.habits: the calls of open_clip and of sentence-transformers, with the arguments that they take."""

import inspect
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import siglip
from PIL import Image
from siglip import habits

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEMO = str(ROOT / "models/demo")
EXAMPLES = sorted((ROOT / "data/demo/examples").iterdir())


@pytest.fixture(name="model", scope="module")
def model_fixture():
    return siglip.Model(DEMO, precision="fp32")


@pytest.fixture(name="encoder", scope="module")
def encoder_fixture():
    return habits.SentenceTransformer(DEMO, precision="fp32")


def test_the_habit_of_open_clip(model):
    clip, _, preprocess = habits.create_model_and_transforms(DEMO)
    pixels = np.stack([preprocess(Image.open(path)) for path in EXAMPLES])
    auto = siglip.Model(DEMO)
    assert np.array_equal(clip.encode_image(pixels), auto.embed_images(EXAMPLES))
    rows = clip.encode_image(pixels, normalize=True)
    texts = clip.eval().encode_text(habits.get_tokenizer(DEMO)(["a seven", "a blue star"]), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert texts.shape == (2, auto.embedding_size)
    assert clip.logit_scale == model.logit_scale and clip.logit_bias == model.logit_bias


def test_arguments_of_open_clip_that_change_nothing_are_taken(model):
    clip, _, preprocess = habits.create_model_and_transforms(
        DEMO, pretrained="webli", load_weights=True, precision="fp32", device="cpu", jit=True, force_custom_text=True,
        pretrained_image=True, pretrained_text=False, pretrained_hf=False, cache_dir="/nonexistent", output_dict=True,
        load_weights_only=False, weights_only=False)
    assert "fp32" in clip.model.engine and clip.model.engine.startswith("cpu")
    assert np.array_equal(clip.encode_image(preprocess(EXAMPLES[0])[None]), model.embed_images(EXAMPLES[:1]))
    tokenizer = habits.get_tokenizer(DEMO, context_length=model.text_length, cache_dir="/nonexistent")
    assert np.array_equal(tokenizer("a seven", context_length=model.text_length), model.tokenize(["a seven"]))
    again, _, _ = habits.create_model_and_transforms(DEMO, DEMO, precision="fp32", device="cpu")
    assert again.model is clip.model, "get_tokenizer opened another one"
    for third in ("fp32", True):  # the precision until open_clip 2, load_weights since
        with pytest.raises(TypeError, match="positional"):
            habits.create_model_and_transforms(DEMO, "webli", third)


def test_the_habit_of_siglips_model_cards(model):
    """Theirs names create_model_from_pretrained and the model's context_length."""
    clip, preprocess = habits.create_model_from_pretrained(DEMO, precision="fp32")
    tokenizer = habits.get_tokenizer(DEMO)
    texts = clip.encode_text(tokenizer(["a seven", "a star"], context_length=clip.context_length), normalize=True)
    image = clip.encode_image(preprocess(Image.open(EXAMPLES[0]))[None], normalize=True)
    probabilities = 1 / (1 + np.exp(-(image @ texts.T * np.exp(clip.logit_scale) + clip.logit_bias)))
    np.testing.assert_allclose(probabilities, model.classify(EXAMPLES[:1], ["a seven", "a star"], "{text}"), rtol=1e-5)
    assert habits.create_model_from_pretrained(DEMO, "webli", precision="fp32", return_transform=False).model is clip.model
    with pytest.raises(ValueError, match="force_image_size: expected None, got 384"):
        habits.create_model_from_pretrained(DEMO, force_image_size=384)
    with pytest.raises(TypeError, match="positional"):
        habits.create_model_from_pretrained(DEMO, "webli", "fp32")


@pytest.mark.parametrize("arguments, words", [
    ({"pretrained": str(ROOT / "models/demo/model.safetensors")}, "pretrained: expected a tag"),
    ({"load_weights": False}, "load_weights: expected True, got False; weights are those of the folder"),
    ({"pretrained_text_path": "a"}, "pretrained_text_path: expected None, got 'a'"),
    ({"force_naflex_vision": True}, "force_naflex_vision: expected False, got True; .*config.json"),
    ({"force_quick_gelu": True}, "force_quick_gelu: expected False, got True; .*config.json"),
    ({"force_image_size": 384}, "force_image_size: expected None, got 384; .*config.json"),
    ({"image_mean": (0.5, 0.5, 0.5)}, "image_mean: expected None, .*preprocessor_config.json"),
    ({"image_interpolation": "bilinear"}, "image_interpolation: expected None, .*preprocessor_config.json"),
    ({"precision": "amp"}, "precision: expected auto, fp32, .* got amp"),
])
def test_arguments_of_open_clip_that_ask_for_another_result_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        habits.create_model_and_transforms(DEMO, **arguments)
    with pytest.raises(ValueError, match="context_length: expected 32, got 77"):
        habits.get_tokenizer(DEMO, context_length=77)


def test_the_habit_of_sentence_transformers(encoder):
    mixed = encoder.encode(["a seven", EXAMPLES[0], "a star"], normalize_embeddings=True)
    assert mixed.shape == (3, encoder.get_sentence_embedding_dimension())
    assert np.array_equal(mixed[0], encoder.encode("a seven", normalize_embeddings=True))
    assert np.array_equal(encoder.encode(Image.open(EXAMPLES[0])), encoder.model.embed_images(EXAMPLES[:1])[0])
    cosines = encoder.similarity(mixed, mixed)
    assert cosines.shape == (3, 3)
    np.testing.assert_allclose(np.diag(cosines), 1, rtol=1e-6)


def test_texts_may_come_in_any_list(encoder):
    texts = ["a seven", "a star"]
    want = encoder.model.embed_texts(texts)
    for way in (texts, tuple(texts), np.array(texts), np.array(texts, dtype=object), iter(texts), dict.fromkeys(texts).keys()):
        assert np.array_equal(encoder.encode(way), want)
    assert np.array_equal(encoder.encode(np.array("a star")), want[1])
    assert encoder.encode([]).shape == encoder.encode(np.array([], dtype=str)).shape == (0, want.shape[1])
    image = np.asarray(Image.open(EXAMPLES[0]).convert("RGB"))
    assert np.array_equal(encoder.encode(image), encoder.model.embed_images([image])[0])


def test_arguments_of_sentence_transformers_are_taken(encoder):
    want = encoder.model.embed_texts(["a seven"])
    got = encoder.encode(["a seven"], batch_size=1, show_progress_bar=True, output_value="sentence_embedding",
                         precision="float32", convert_to_numpy=True, convert_to_tensor=False, device=None, chunk_size=5)
    assert np.array_equal(got, want)
    assert np.array_equal(encoder.encode("seven", prompt="a "), want[0])
    assert np.array_equal(encoder.encode(["seven"], None, "a "), want)
    short = encoder.encode(["a seven"], truncate_dim=8, normalize_embeddings=True)
    assert np.array_equal(short, habits.normalized(want[:, :8]))
    assert encoder.encode("a seven", truncate_dim=8).shape == (8,)
    same = habits.SentenceTransformer(DEMO, device="cpu", cache_folder="/nonexistent", local_files_only=True,
                                      trust_remote_code=True, revision="main", token="", precision="fp32", prompts={},
                                      similarity_fn_name="cosine", model_kwargs={}, backend="onnx", truncate_dim=None)
    assert np.array_equal(same.encode(["a seven"]), want)
    # Theirs, in their order: positions count too.
    assert list(inspect.signature(encoder.encode).parameters)[:5] == [
        "inputs", "prompt_name", "prompt", "batch_size", "show_progress_bar"]
    # The first one's name until sentence-transformers 5, and since.
    assert np.array_equal(encoder.encode(sentences=["a seven"]), want)
    assert np.array_equal(encoder.encode(inputs=["a seven"]), want)
    with pytest.raises(TypeError, match="sentences"):
        encoder.encode(["a seven"], sentences=["a seven"])


def test_the_newer_names_of_sentence_transformers(encoder):
    rows = encoder.encode([EXAMPLES[0], EXAMPLES[1]])
    assert np.array_equal(encoder.encode_document([EXAMPLES[0], EXAMPLES[1]]), rows)
    query = encoder.encode_query("a seven", normalize_embeddings=True)
    assert np.array_equal(query, encoder.encode("a seven", normalize_embeddings=True))
    assert encoder.get_embedding_dimension() == rows.shape[1]
    pairs = encoder.similarity_pairwise(rows, rows[::-1])
    np.testing.assert_allclose(pairs, encoder.similarity(rows, rows)[0, 1].repeat(2), rtol=1e-6)
    assert encoder.similarity_pairwise(rows[0], rows[1]).shape == (1,)


def test_an_encoder_may_be_made_to_truncate(encoder):
    want = encoder.encode(["a seven"], truncate_dim=8, normalize_embeddings=True)
    short = habits.SentenceTransformer(DEMO, precision="fp32", truncate_dim=8)
    assert short.get_sentence_embedding_dimension() == 8
    assert np.array_equal(short.encode(["a seven"], normalize_embeddings=True), want)
    assert short.encode(["a seven"], truncate_dim=4).shape == (1, 4)
    short.truncate_dim = 10_000
    width = encoder.get_sentence_embedding_dimension()
    assert short.get_sentence_embedding_dimension() == width and short.encode(["a seven"]).shape == (1, width)


@pytest.mark.parametrize("argument, value, words", [
    ("modules", ["x"], "as the checkpoint says"),
    ("prompts", {"query": "q: "}, "no named prompts"),
    ("default_prompt_name", "query", "no named prompts"),
    ("similarity_fn_name", "dot", "expected 'cosine', got 'dot'"),
    ("model_kwargs", {"torch_dtype": "float16"}, "as the checkpoint says"),
    ("processor_kwargs", {"max_length": 9}, "as the checkpoint says"),
])
def test_an_encoder_that_would_give_another_result_is_not_made(argument, value, words):
    with pytest.raises(ValueError, match=f"^{argument}: .*{words}"):
        habits.SentenceTransformer(DEMO, **{argument: value})


@pytest.mark.parametrize("argument, value, words", [
    ("prompt_name", "query", "no named prompts"),
    ("output_value", "token_embeddings", "expected 'sentence_embedding'"),
    ("precision", "binary", "expected 'float32', got 'binary'"),
    ("convert_to_tensor", True, "torch.from_numpy"),
    ("convert_to_numpy", False, "torch.from_numpy"),
    ("device", "cuda", "when the checkpoint is opened"),
])
def test_arguments_of_sentence_transformers_that_ask_for_another_result_are_refused(encoder, argument, value, words):
    with pytest.raises(ValueError, match=f"^{argument}: .*{words}"):
        encoder.encode(["a seven"], **{argument: value})


FORKS = """
import os, sys
import numpy as np
from siglip import habits

def rows():
    clip, _, _ = habits.create_model_and_transforms(sys.argv[1], precision="fp32")
    return clip.encode_text(habits.get_tokenizer(sys.argv[1])(["a seven"]))

want = rows()
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(rows(), want) else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(rows(), want)
"""


def test_a_forked_child_gets_a_model_of_its_own():
    subprocess.run([sys.executable, "-c", FORKS, DEMO], check=True, timeout=120,
                   env={**os.environ, "PYTHONPATH": str(pathlib.Path(siglip.__file__).parents[1])})


# What torch's DataLoader does with a dataset that holds the transform, by its two ways of starting workers.
WORKERS = """
import multiprocessing, sys
import numpy as np
from siglip import habits, Model

def work(parts, queue):
    transform, tokenize, model = parts
    queue.put((transform(sys.argv[1]), tokenize(["a cat"]), model and model.embed_texts(["a cat"])))

if __name__ == "__main__":
    start = sys.argv[3]
    model, _, transform = habits.create_model_and_transforms(sys.argv[2], precision="fp32")
    tokenize = habits.get_tokenizer(sys.argv[2])
    mine = transform(sys.argv[1]), tokenize(["a cat"]), model.model.embed_texts(["a cat"])
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    # A model itself is opened anew where it is unpickled; a fork has its parent's.
    parts = transform, tokenize, model.model if start == "spawn" else None
    worker = context.Process(target=work, args=(parts, queue))
    worker.start()
    for here, there in zip(mine, queue.get(timeout=100)):
        assert there is None or np.array_equal(here, there)
    worker.join()
    assert worker.exitcode == 0
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_transform_and_tokenizer_work_in_other_processes(tmp_path, start):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    folder = pathlib.Path(siglip.__file__).parents[1]
    done = subprocess.run([sys.executable, script, EXAMPLES[0], DEMO, start], env={**os.environ, "PYTHONPATH": str(folder)},
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_another_checkpoint_under_the_same_name_is_opened(tmp_path, monkeypatch):
    for name in ("a", "b"):
        shutil.copytree(DEMO, tmp_path / name / "model")
    monkeypatch.chdir(tmp_path / "a")
    first = habits.create_model_and_transforms("model", precision="fp32")[0]
    monkeypatch.chdir(tmp_path / "b")
    second = habits.create_model_and_transforms("model", precision="fp32")[0]
    assert second.model is not first.model
    assert habits.create_model_and_transforms("model", precision="fp32")[0].model is second.model
    weights = bytearray(pathlib.Path("model/model.safetensors").read_bytes())
    pathlib.Path("new").write_bytes(weights)
    os.replace("new", "model/model.safetensors")
    assert habits.create_model_and_transforms("model", precision="fp32")[0].model is not second.model


@pytest.mark.parametrize("pretrained", ["/nonexistent/w.pt", "epoch_5.pt", "model.safetensors"])
def test_weights_that_are_not_the_folders_are_refused(pretrained):
    with pytest.raises(ValueError, match="pretrained"):
        habits.create_model_and_transforms(DEMO, pretrained=pretrained)


def test_pictures_and_texts_are_told_apart_as_there(encoder):
    """sentence-transformers opens a str that ends as a picture's name if there is such a file."""
    picture = encoder.encode(EXAMPLES[0])
    for same in (str(EXAMPLES[0]), {"image": EXAMPLES[0]}, {"image": str(EXAMPLES[0])}, Image.open(EXAMPLES[0])):
        assert np.array_equal(encoder.encode(same), picture), same
    text = encoder.encode("a photo of seven")
    assert np.array_equal(encoder.encode({"text": "a photo of seven"}), text)
    assert np.array_equal(encoder.encode([{"text": "a photo of seven"}, str(EXAMPLES[0])]), np.stack([text, picture]))
    missing = "no such file.png"
    assert np.array_equal(encoder.encode(missing), encoder.model.embed_texts([missing])[0])
    for wrong, kind in (({"image": "nope.png"}, ValueError), ({"audio": b""}, TypeError), ({}, TypeError),
                        ("https://example.org/a.png", ValueError), ("data:image/png;base64,AAAA", ValueError)):
        with pytest.raises(kind, match="item 1"):
            encoder.encode(["a", wrong])


def test_an_error_names_the_place_in_the_whole_list(encoder):
    image = Image.open(EXAMPLES[0])
    for items, kind, says in ((["a", "b", "c", b"x", image], ValueError, "item 3 of 5"),
                              (["a", "b", image, None], TypeError, "item 3"),
                              ([image, image, "ok", "\ud800"], ValueError, "item 3 of 4")):
        with pytest.raises(kind, match=says):
            encoder.encode(items)


@pytest.mark.parametrize("scale", [0.05, 40])
def test_half_rows_are_as_similar_as_others(scale):
    rows = (np.random.default_rng(1).standard_normal((3, 1152)) * scale).astype(np.float16)
    exact = rows.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    # float32's rounding of sums of 1152 products.
    np.testing.assert_allclose(habits.SentenceTransformer.similarity(rows, rows), exact @ exact.T, atol=1e-6)
    np.testing.assert_allclose(habits.SentenceTransformer.similarity_pairwise(rows, rows), 1, atol=1e-6)
