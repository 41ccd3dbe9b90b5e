"""The Python package against transformers (tests/golden/demo.json), Pillow and the program."""

import io
import json
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import PIL
import pytest
import siglip
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci")
DEMO = ROOT / "models/demo"
EXAMPLES = sorted((ROOT / "data/demo/examples").iterdir())
GOLDEN = json.loads((ROOT / "tests/golden/demo.json").read_text())
LABELS = ["seven", "star", "circle", "a red circle"]
# docs/numerics.md, as in src/api/golden_test.cc.
ERROR_RATIO, ERROR_FLOOR = 2, 5e-7


@pytest.fixture(name="model", scope="module")
def model_fixture():
    return siglip.Model(DEMO, precision="fp32")


def test_the_package_is_the_one_that_was_built():
    assert pathlib.Path(siglip.__file__).is_relative_to(BUILD)
    assert (BUILD / "python/siglip/py.typed").exists() and (BUILD / "python/siglip/_siglip.pyi").exists()


def relative_error(got, want):
    return np.linalg.norm(got.astype(np.float64) - want, axis=1) / np.linalg.norm(want, axis=1)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_embeddings_are_those_of_transformers(model, kind):
    want = np.array(GOLDEN[f"{kind}_embeddings"])
    if kind == "image":
        got = model.embed_images([ROOT / name for name in GOLDEN["images"]])
    else:
        got = model.embed_texts(GOLDEN["texts"])
    bound = np.maximum(ERROR_FLOOR, ERROR_RATIO * np.array(GOLDEN[f"{kind}_error_of_float32"]))
    assert got.dtype == np.float32 and got.shape == want.shape
    assert (relative_error(got, want) <= bound).all()
    assert (relative_error(-got, want) > bound).all() and (relative_error(got[::-1], want) > bound).any()


def test_ids_are_those_of_transformers(model):
    assert np.array_equal(model.tokenize(GOLDEN["texts"]), np.array(GOLDEN["ids"]))


def test_pixels_are_those_of_pillow(model):
    assert PIL.__version__ == "13.0.0"
    rng = np.random.default_rng(7)
    pictures = [Image.open(path) for path in EXAMPLES]
    pictures += [Image.fromarray(rng.integers(0, 256, shape, np.uint8))
                 for shape in [(1, 1, 3), (3, 200, 3), (200, 3, 3), (97, 61, 3), (33, 40, 4), (50, 20)]]
    size = model.image_size
    for picture in pictures:
        resized = np.asarray(picture.convert("RGB").resize((size, size), Image.BICUBIC))
        half = np.float32(0.5)
        want = ((resized.astype(np.float32) / np.float32(255) - half) / half).transpose(2, 0, 1)
        file = io.BytesIO()
        picture.save(file, "PNG")
        ways = [file.getvalue(), picture, np.asarray(picture.convert("RGB"))]
        got = model.preprocess(ways)
        assert all(np.array_equal(pixels, want) for pixels in got), picture


def test_all_ways_to_give_an_image_give_one_row(model):
    path = EXAMPLES[0]
    image = Image.open(path)
    array = np.asarray(image.convert("RGB"))
    padded = np.zeros((array.shape[0], array.shape[1] + 5, 3), np.uint8)
    padded[:, :-5] = array
    ways = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes()), image,
            array, padded[:, :-5]]
    rows = model.embed_images(ways)
    assert (rows == rows[0]).all()
    assert np.array_equal(model.encode_pixels(model.preprocess(ways[:1])), rows[:1])
    assert np.array_equal(model.encode_tokens(model.tokenize(["seven"])), model.embed_texts(["seven"]))
    assert model.embed_images([]).shape == (0, model.embedding_size) and model.embed_texts([]).shape[0] == 0


def test_naflex_has_patches():
    folder = ROOT / "tests/golden/naflex"
    golden = json.loads((folder / "golden.json").read_text())
    model = siglip.Model(folder, precision="fp32")
    assert (model.image_size, model.patch_size, model.max_patches) == (0, 8, 100) and "NaFlex, 100" in repr(model)
    paths = [ROOT / name for name in golden["images"]]
    want = np.array(golden["image_embeddings"])
    rows = model.embed_images(paths)
    bound = np.maximum(ERROR_FLOOR, ERROR_RATIO * np.array(golden["image_error_of_float32"]))
    assert (relative_error(rows, want) <= bound).all()
    pixels, shapes = model.preprocess_patches(paths)
    assert pixels.shape == (len(paths), 100, 192) and np.array_equal(shapes, golden["spatial_shapes"])
    assert np.array_equal(model.encode_patches(pixels, shapes), rows)
    failures = {}
    pixels, shapes = model.preprocess_patches([paths[0], b"no image"], failures)
    assert list(failures) == [1] and np.isnan(pixels[1]).all() and (shapes[1] == 0).all()
    for wrong in ([(0, 5)], [(11, 10)], [(2 ** 62, 4)]):
        with pytest.raises(ValueError, match="image 0: expected 1 to 100 patches"):
            model.encode_patches(pixels[:1], wrong)
    with pytest.raises(ValueError, match="spatial_shapes: expected"):
        model.encode_patches(pixels, shapes[:1])
    with pytest.raises(ValueError, match="pixels: expected"):
        model.encode_patches(pixels[:, :99], shapes)
    with pytest.raises(RuntimeError, match="NaFlex"):
        model.preprocess(paths)
    with pytest.raises(RuntimeError, match="fixed resolution"):
        siglip.Model(DEMO).preprocess_patches(paths)
    assert siglip.Model(folder, max_patches=64).preprocess_patches(paths)[0].shape == (len(paths), 64, 192)


def test_bad_items_raise_or_are_told(model):
    items = [EXAMPLES[0], b"no image", "/no/such.jpg"] * 20
    with pytest.raises(ValueError, match="item 1 of 60.*8 bytes"):
        model.embed_images(items)
    with pytest.raises(FileNotFoundError, match="/no/such.jpg"):
        model.embed_images(items[2:])
    failures = {}
    rows = model.embed_images(items, failures)
    assert sorted(failures) == [i for i in range(60) if i % 3] and "/no/such.jpg" in failures[59]
    assert np.isnan(rows[1]).all() and np.array_equal(rows[0::3], np.repeat(model.embed_images(items[:1]), 20, 0))
    failures = {}
    assert np.isnan(model.embed_texts(["fine", "\ud800"], failures)[1]).all() and list(failures) == [1]


@pytest.mark.parametrize("wrong", [[1], [np.zeros((2, 2), np.uint8)], [np.zeros((2, 2, 3))], "a.jpg", b"bytes"])
def test_what_is_no_list_of_images_is_a_type_error(model, wrong):
    with pytest.raises(TypeError):
        model.embed_images(wrong)


def test_wrong_shapes_and_options_are_named(model):
    with pytest.raises(ValueError, match=r"expected \[N, 3,"):
        model.encode_pixels(np.zeros((1, 3, 5, 5)))
    with pytest.raises(ValueError, match=r"expected \[N, 32\]"):
        model.encode_tokens([[1, 2]])
    with pytest.raises(ValueError):
        model.encode_tokens(np.full((1, model.text_length), model.vocab_size))
    with pytest.raises(ValueError, match="int4"):
        siglip.Model(DEMO, precision="int4")
    with pytest.raises(FileNotFoundError, match="/nonexistent"):
        siglip.Model("/nonexistent")
    with pytest.raises(ValueError, match="loud"):
        siglip.set_log_level("loud")
    with pytest.raises(ValueError, match="templates"):
        model.classify(EXAMPLES, LABELS, [])


def test_classify_equals_the_program(model):
    got = model.classify(EXAMPLES, LABELS, ["A photo of {text}.", "{label}"])
    run = subprocess.run(
        [BUILD / "src/cli/siglip", "classify", "--model", DEMO, "--precision", "fp32", "--labels", ",".join(LABELS),
         "--template", "A photo of {text}.", "--template", "{label}", "--format", "jsonl", *EXAMPLES],
        check=True, capture_output=True, text=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    want = [[{x["label"]: x["probability"] for x in answer["labels"]}[label] for label in LABELS] for answer in answers]
    assert np.array_equal(got.astype(np.float32), np.array(want, np.float32))
    assert LABELS[got[[p.stem for p in EXAMPLES].index("seven")].argmax()] == "seven"


def test_the_gil_is_released(model):
    """A switch interval that never ends: another thread runs only if the call gives the GIL away."""
    ran, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (go.wait(), ran.set()))
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    try:
        go.set()
        for _ in range(200):
            model.embed_texts(["seven"] * 16)
            if ran.is_set():
                break
        released = ran.is_set()
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    assert released


def test_threads_get_the_same_rows(model):
    want = model.embed_images(EXAMPLES)
    results = [None] * 4

    def work(i):
        results[i] = [model.embed_images(EXAMPLES) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(rows, want) for result in results for rows in result)


def test_a_forked_child_is_told(model):
    child = os.fork()
    if child == 0:
        try:
            model.embed_texts(["x"])
            os._exit(1)
        except RuntimeError as error:
            os._exit(0 if "after the fork" in str(error) else 2)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_printed():
    program = f"import siglip; siglip.Model({str(DEMO)!r}).embed_texts(['x'])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                         env={**os.environ, "PYTHONPATH": str(BUILD / "python")})
    assert run.stdout == "" and run.stderr == ""
