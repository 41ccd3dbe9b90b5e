"""The demo checkpoint through the program: transformers' embeddings, and the accuracies that its card states."""

import json
import pathlib

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

ROOT = pathlib.Path(__file__).resolve().parents[3]
DATA = ROOT / "data/demo"
# docs/numerics.md: twice what transformers' own float32 run is off by, and never asked to beat one rounding per
# addition of the longest sum.
ERROR_RATIO = 2.0
ERROR_FLOOR = 5e-7
CLASSES = [line.split(" ", 1) for line in (DATA / "LOC_synset_mapping.txt").read_text().splitlines()]


@pytest.fixture(name="golden", scope="module")
def golden_fixture():
    return json.loads((ROOT / "tests/golden/demo.json").read_text())


def embed(siglip, tmp_path, demo, images=(), texts=(), precision="fp32"):
    out = tmp_path / "rows.npy"
    arguments = [item for text in texts for item in ("--text", text)]
    result = siglip("embed", "--model", demo, "--precision", precision, *images, *arguments, "-o", out)
    assert result.returncode == 0, result.stderr
    return np.load(out).astype(np.float64)


def assert_near(got, expected, float32_errors):
    expected = np.array(expected)
    error = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    bound = np.maximum(ERROR_RATIO * np.array(float32_errors), ERROR_FLOOR)
    assert (error <= bound).all(), (error / bound).max()
    cosine = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() >= 0.999999


def test_images_equal_transformers(siglip, demo, golden, tmp_path):
    rows = embed(siglip, tmp_path, demo, images=golden["images"])
    assert_near(rows, golden["image_embeddings"], golden["image_error_of_float32"])


def test_texts_equal_transformers(siglip, demo, golden, tmp_path):
    rows = embed(siglip, tmp_path, demo, texts=golden["texts"])
    assert_near(rows, golden["text_embeddings"], golden["text_error_of_float32"])


def test_the_precision_that_auto_chooses_keeps_the_angle(siglip, demo, golden, tmp_path):
    for kind in ("image", "text"):
        rows = embed(siglip, tmp_path, demo, **{f"{kind}s": golden[f"{kind}s"]}, precision="auto")
        expected = np.array(golden[f"{kind}_embeddings"])
        cosine = (rows * expected).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosine.min() >= 0.99999  # docs/numerics.md


def test_the_comparison_can_fail(golden):
    rows = np.array(golden["image_embeddings"])
    errors = golden["image_error_of_float32"]
    assert_near(rows, rows, errors)
    for wrong in (rows * 1.00001, -rows, rows + np.eye(len(rows), rows.shape[1]) * 1e-4, rows * np.nan):
        with pytest.raises(AssertionError):
            assert_near(wrong, rows, errors)


@pytest.fixture(name="sets", scope="module")
def sets_fixture(tmp_path_factory):
    from conftest import DEMO, run_siglip

    folder = tmp_path_factory.mktemp("sets")
    rows = {}
    for split in ("train", "valid"):
        out = folder / f"{split}.npy"
        assert run_siglip("embed", "--model", DEMO, DATA / split, "-o", out).returncode == 0
        names = [json.loads(line) for line in (folder / f"{split}.npy.names.txt").read_text().splitlines()]
        labels = np.array([[c for c, _ in CLASSES].index(pathlib.Path(n).parent.name) for n in names])
        rows[split] = (np.load(out).astype(np.float64), labels)
    return rows


def top1(fit, fit_labels, test, test_labels, group):
    knn = KNeighborsClassifier(n_neighbors=10, weights="distance", metric="cosine").fit(fit, fit_labels)
    return top_k_accuracy_score(test_labels[group], knn.predict_proba(test[group]), k=1, labels=np.arange(len(CLASSES)))


def check_bars(fit, fit_labels, valid):
    test, labels = valid
    assert top1(fit, fit_labels, test, labels, labels < 10) >= 0.95, "digits"
    assert top1(fit, fit_labels, test, labels, labels >= 10) >= 0.90, "shapes"


def test_ten_shot_accuracy(sets):
    check_bars(*sets["train"], sets["valid"])


def test_zero_shot_accuracy(siglip, demo, sets, tmp_path):
    texts = [f"A photo of {name}." for _, name in CLASSES]
    check_bars(embed(siglip, tmp_path, demo, texts=texts, precision="auto"), np.arange(len(CLASSES)), sets["valid"])
