"""What is refused, as which exception and in which words; and that one bad item leaves the others alone."""

import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import siglip
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEMO = ROOT / "models/demo"
PICTURE = ROOT / "data/demo/examples/seven.png"
NAFLEX = ROOT / "tests/golden/naflex"
NO_UTF_8 = os.fsdecode(b"/nonexistent/\xff.jpg")


@pytest.fixture(name="model", scope="module")
def model_fixture():
    return siglip.Model(DEMO, precision="fp32")


def truncated():
    """A PIL image that fails when it is used, not when it is opened."""
    return Image.open(io.BytesIO(PICTURE.read_bytes()[:-200]))


def test_a_message_names_a_path_that_is_no_utf_8(model):
    failures = {}
    rows = model.embed_images([NO_UTF_8, PICTURE], failures)
    assert list(failures) == [0] and "/nonexistent/\ufffd.jpg" in failures[0]
    assert np.isnan(rows[0]).all() and not np.isnan(rows[1]).any()
    with pytest.raises(FileNotFoundError, match="item 1 of 2: .*/nonexistent/\ufffd.jpg"):
        model.embed_images([PICTURE, NO_UTF_8])


def test_a_checkpoint_may_be_in_a_folder_of_any_name(model, tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"\xff")
    os.symlink(DEMO, folder)
    for name in (folder, os.fsdecode(folder), pathlib.Path(os.fsdecode(folder))):
        assert np.array_equal(siglip.Model(name, precision="fp32").embed_texts(["x"]), model.embed_texts(["x"]))
    with pytest.raises(FileNotFoundError, match="/nonexistent/\ufffd.jpg"):
        siglip.Model(NO_UTF_8)


def test_no_path_is_cut_at_a_nul(model, tmp_path):
    for path in (f"{PICTURE}\0evil", f"{PICTURE}\0", "\0"):
        with pytest.raises(ValueError, match="item 0 of 1: path: expected no NUL"):
            model.embed_images([path])
    with pytest.raises(ValueError, match="directory: expected no NUL"):
        siglip.Model(f"{DEMO}\0x")
    with pytest.raises(ValueError, match="cache_dir: expected no NUL"):
        siglip.Model(DEMO, cache_dir=f"{tmp_path}\0x")
    with pytest.raises(ValueError, match="precision: expected no NUL"):
        siglip.Model(DEMO, precision="fp32\0x")
    with pytest.raises(ValueError, match="level: expected no NUL"):
        siglip.set_log_level("warn\0x")


def test_items_that_are_no_image_fail_alone(model):
    items = [PICTURE, None, float("nan"), truncated(), np.zeros((2, 2)), f"{PICTURE}\0x", 7, PICTURE]
    failures = {}
    rows = model.embed_images(items, failures)
    assert list(failures) == [1, 2, 3, 4, 5, 6] and all(isinstance(why, str) for why in failures.values())
    for i, words in ((1, "NoneType"), (2, "float"), (3, "truncated"), (4, "uint8"), (5, "NUL"), (6, "int")):
        assert words in failures[i] and np.isnan(rows[i]).all()
    assert np.array_equal(rows[[0, 7]], np.repeat(model.embed_images([PICTURE]), 2, 0))
    failures = {}
    assert np.isnan(model.preprocess([truncated()], failures)).all() and list(failures) == [0]
    failures = {}
    pixels, shapes = siglip.Model(NAFLEX).preprocess_patches([PICTURE, None], failures)
    assert np.isnan(pixels[1]).all() and (shapes[1] == 0).all() and list(failures) == [1]
    for item, error, words in ((None, TypeError, "^item 1: image: expected"), (truncated(), OSError, "truncated")):
        with pytest.raises(error, match=words):
            model.embed_images([PICTURE, item])


def test_memory_of_any_kind_is_read(model):
    file = PICTURE.read_bytes()
    wide = bytearray(2 * len(file))
    wide[::2] = file
    released = memoryview(file)
    released.release()
    failures = {}
    rows = model.embed_images([file, memoryview(wide)[::2], released, memoryview(file)[::2]], failures)
    assert list(failures) == [2, 3] and "released" in failures[2]
    assert np.array_equal(rows[:2], np.repeat(model.embed_images([file]), 2, 0)) and np.isnan(rows[2:]).all()
    with pytest.raises(ValueError, match="released"):
        model.embed_images([file, released])


def test_items_that_are_no_text_fail_alone(model):
    for item in (None, b"a", 7):
        failures = {}
        rows = model.embed_texts(["a", item, "a"], failures)
        assert list(failures) == [1] and type(item).__name__ in failures[1]
        assert np.isnan(rows[1]).all() and np.array_equal(rows[0], rows[2]) and not np.isnan(rows[0]).any()
        failures = {}
        assert (model.tokenize([item], failures) == 0).all() and list(failures) == [0]
        with pytest.raises(TypeError, match=f"^item 1: text: expected a str, got {type(item).__name__}"):
            model.embed_texts(["a", item])


def test_a_place_in_the_list_is_that_of_the_whole_list(model):
    items = [PICTURE] * 1500
    items[1490] = "/no/such.png"
    failures = {}
    rows = model.embed_images(items, failures)
    assert list(failures) == [1490] and np.flatnonzero(np.isnan(rows).any(1)).tolist() == [1490]
    assert (np.delete(rows, 1490, 0) == rows[0]).all()
    with pytest.raises(FileNotFoundError, match="^item 1490 of 1500: .*/no/such.png"):
        model.embed_images(items)


def test_what_is_no_regular_file_is_a_value_error(model, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", PICTURE / "x"):
        with pytest.raises(ValueError, match=f"item 0 of 1: .*{path}"):
            model.embed_images([path])


def test_what_may_not_be_read_is_a_permission_error(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(PICTURE.read_bytes())
    secret.chmod(0)
    program = f"""
import os, siglip
model = siglip.Model({str(DEMO)!r})
if os.getuid() == 0:
    os.setuid(65534)  # root may read everything
try:
    model.embed_images([{str(secret)!r}])
except PermissionError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(pathlib.Path(siglip.__file__).parents[1])})
    assert str(secret) in run.stdout and run.stderr == ""


def test_labels_may_come_from_a_generator(model):
    labels = ["seven", "star"]
    want = model.classify([PICTURE], labels, ["a {text}", "{label}"])
    got = model.classify((path for path in [PICTURE]), (label for label in labels), (t for t in ["a {text}", "{label}"]))
    assert np.array_equal(got, want)
    classifier = model.classifier(label for label in labels)
    assert classifier.labels == labels and classifier.classify([PICTURE]).shape == (1, 2)
    with pytest.raises(TypeError, match="expected a list"):
        model.classifier("seven")
    with pytest.raises(ValueError, match="labels: expected at least one"):
        model.classifier([])


def test_a_template_needs_a_place_for_the_label(model):
    words = 'template "a photo": expected {text} or {label} in it, got neither'
    for templates in ("a photo", ["{text}", "a photo"]):
        with pytest.raises(ValueError, match=words):
            model.classifier(["seven", "star"], templates)


@pytest.mark.parametrize("options, error, words", [
    ({"threads": 1.5}, TypeError, "threads: expected an int, got float"),
    ({"threads": 2 ** 40}, ValueError, "threads: expected 0 to 2147483647, got 1099511627776"),
    ({"threads": -1}, ValueError, "threads: expected 0 to 2147483647, got -1"),
    ({"max_pixels": "many"}, TypeError, "max_pixels: expected an int, got str"),
    ({"max_pixels": 2 ** 63}, ValueError, "max_pixels: expected 0 to 9223372036854775807, got"),
    ({"max_patches": None}, TypeError, "max_patches: expected an int, got NoneType"),
    ({"pillow": "13"}, TypeError, "pillow: expected an int, got str"),
    ({"precision": None}, TypeError, "precision: expected a str, got NoneType"),
    ({"device": b"cpu"}, TypeError, "device: expected a str, got bytes"),
    ({"isa": 2}, TypeError, "isa: expected a str, got int"),
    ({"precision": "\ud800"}, ValueError, "precision: expected auto, "),
])
def test_an_option_of_the_wrong_kind_is_named(options, error, words):
    with pytest.raises(error, match=f"^{words}"):
        siglip.Model(DEMO, **options)


def test_a_log_level_of_the_wrong_kind_is_named():
    with pytest.raises(TypeError, match="^level: expected a str, got NoneType"):
        siglip.set_log_level(None)


def test_a_step_of_the_other_kind_of_checkpoint_is_named(model):
    naflex = siglip.Model(NAFLEX)
    with pytest.raises(RuntimeError, match="got NaFlex: call encode_patches"):
        naflex.encode_pixels(np.zeros((1, 3, 48, 48)))
    with pytest.raises(RuntimeError, match="got NaFlex: call preprocess_patches"):
        naflex.preprocess([PICTURE])
    with pytest.raises(RuntimeError, match="got one of fixed resolution: call encode_pixels"):
        model.encode_patches(np.zeros((1, 4, 192)), [[2, 2]])
    with pytest.raises(RuntimeError, match="got one of fixed resolution: call preprocess"):
        model.preprocess_patches([PICTURE])


def test_what_must_be_integers_is_not_rounded(model):
    ids = model.tokenize(["seven"])
    for array in (ids + 0.5, ids.astype(np.float32), ids.astype(str), ids.astype(bool)):
        with pytest.raises(TypeError, match=f"ids: expected integers, got {array.dtype}"):
            model.encode_tokens(array)
    for kind in (np.int32, np.uint16):
        assert np.array_equal(model.encode_tokens(ids.astype(kind)), model.encode_tokens(ids))
    naflex = siglip.Model(NAFLEX)
    pixels, shapes = naflex.preprocess_patches([PICTURE])
    with pytest.raises(TypeError, match="spatial_shapes: expected integers, got float64"):
        naflex.encode_patches(pixels, shapes + 0.5)


@pytest.mark.parametrize("wrong", [np.uint8, np.int64, np.complex64, "U3", object])
def test_pixels_and_rows_are_floats(model, wrong):
    side = model.image_size
    with pytest.raises(TypeError, match="pixels: expected floats, got"):
        model.encode_pixels(np.ones((1, 3, side, side)).astype(wrong))
    with pytest.raises(TypeError, match="rows: expected floats, got"):
        model.classifier(["a"]).probabilities(np.ones((1, model.embedding_size)).astype(wrong))
    halves = np.ones((1, 3, side, side), np.float16)
    assert np.array_equal(model.encode_pixels(halves), model.encode_pixels(halves.astype(np.float32)))


def test_a_path_that_is_no_text_names_its_place(model):
    with pytest.raises(ValueError, match="item 1: .*surrogate"):
        model.embed_images([PICTURE, "\ud800.png"])
