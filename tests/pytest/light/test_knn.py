"""kNN against scikit-learn on the same float64 embeddings: equal neighbours, predictions and top-5 hits.

Equality is demanded where the 10th neighbour is no exact tie (scikit-learn's choice among ties is numpy's partition
order, which nobody can match), and for the top 5 where the query is no copy of a training row (there scikit-learn's
own rounding decides between weight 1 and weight 1e15).
"""

import os
import pathlib
import subprocess
import warnings

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

ROOT = pathlib.Path(__file__).resolve().parents[3]
DUMP = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/eval/knn_dump"
# Two float64 dot products of unit vectors, each off by at most about sqrt(width) roundings; found: below 4e-16.
TIE = 1e-14


def ours(folder, train, queries, classes, k):
    train.astype(np.float32).tofile(folder / "train.f32")
    queries.astype(np.float32).tofile(folder / "queries.f32")
    (folder / "classes").write_text("\n".join(map(str, classes)))
    width = train.shape[1]
    result = subprocess.run([DUMP, folder / "train.f32", folder / "queries.f32", str(width), folder / "classes", str(k)],
                            capture_output=True, text=True, check=True)
    rows = []
    for line in result.stdout.splitlines():
        neighbours, predicted, top, margin = line.split("|")
        pairs = [pair.split(":") for pair in neighbours.split()]
        rows.append(([int(i) for i, _ in pairs], [float(d) for _, d in pairs], int(predicted),
                     [int(c) for c in top.split()], float(margin)))
    return rows


def data(name, rng):
    """train, its labels, queries, their labels: float32 values."""
    unit = lambda n, d: rng.standard_normal((n, d))  # noqa: E731
    if name == "random":
        return unit(700, 48), rng.integers(0, 90, 700), unit(400, 48), rng.integers(0, 90, 400)
    if name == "clusters":
        centres, labels, found = unit(40, 64) * 3, rng.integers(0, 40, 400), rng.integers(0, 40, 800)
        return centres[labels] + unit(400, 64), labels, centres[found] + unit(800, 64), found
    if name == "tight":  # neighbours nearer to each other than float32 can tell
        base = unit(1, 32)
        return (base + 1e-4 * unit(300, 32), rng.integers(0, 12, 300), base + 1e-4 * unit(200, 32),
                rng.integers(0, 12, 200))
    if name == "few_classes":
        return unit(200, 16), rng.integers(0, 3, 200), unit(300, 16), rng.integers(0, 3, 300)
    if name == "few_rows":
        return unit(6, 16), np.arange(6), unit(100, 16), rng.integers(0, 6, 100)
    if name == "text_to_image":  # one row per class, as in the zero-shot rows
        return unit(500, 96) + 2, np.arange(500), unit(500, 96) - 1, rng.integers(0, 500, 500)
    train, labels = unit(300, 24), rng.integers(0, 30, 300)
    assert name == "copies"
    picked = rng.integers(0, 300, 200)
    return train, labels, train[picked], labels[picked]


@pytest.mark.parametrize("name", ["random", "clusters", "tight", "few_classes", "few_rows", "text_to_image", "copies"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_scikit_learn(name, seed, tmp_path):
    train, labels, queries, truth = data(name, np.random.default_rng(seed))
    # Labels beyond ASCII, in an order that differs from the numbers': np.unique sorts them by code point.
    alphabet = np.array(sorted(f"{'nNzé語'[i % 5]}{i}" for i in range(labels.max() + 1)))
    train, queries = (x.astype(np.float32).astype(np.float64) for x in (train, queries))
    k = min(10, len(train))
    knn = KNeighborsClassifier(n_neighbors=k, weights="distance", metric="cosine").fit(train, alphabet[labels])
    distances, neighbours = knn.kneighbors(queries)
    predicted = knn.predict(queries)
    probabilities = knn.predict_proba(queries)
    rows = ours(tmp_path, train, queries, labels, k)
    assert len(rows) == len(queries)

    everything = np.sort(1 - (queries / np.linalg.norm(queries, axis=1)[:, None])
                         @ (train / np.linalg.norm(train, axis=1)[:, None]).T, axis=1)
    tied = everything[:, k] - everything[:, k - 1] < TIE if len(train) > k else np.zeros(len(queries), bool)
    assert tied.mean() < 0.01
    clear = np.flatnonzero(~tied)
    for i in clear:
        assert set(rows[i][0]) == set(neighbours[i]), i
        np.testing.assert_allclose(rows[i][1], distances[i], rtol=0, atol=TIE)
    if name == "copies":
        assert [alphabet[rows[i][3][0]] for i in clear] == list(predicted[clear])
        return
    wrong = [i for i in clear if alphabet[rows[i][2]] != predicted[i]]
    assert not wrong, [(i, rows[i][4]) for i in wrong[:5]]
    columns = np.argsort(probabilities, axis=1, kind="stable")[:, ::-1][:, :5]
    wrong = [i for i in clear if [alphabet[c] for c in rows[i][3]] != knn.classes_[columns[i]].tolist()]
    assert not wrong, wrong[:5]
    known = [i for i in clear if truth[i] in labels]
    for top in (1, 5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # k >= number of classes
            hits = top_k_accuracy_score(alphabet[truth[known]], probabilities[known], k=top, labels=knn.classes_,
                                        normalize=False)
        assert sum(truth[i] in rows[i][3][:top] for i in known) == hits


def test_the_comparison_can_fail(tmp_path):
    """A search that trusted float32 would order the `tight` rows wrongly."""
    train, labels, queries, _ = data("tight", np.random.default_rng(0))
    rows = ours(tmp_path, train, queries, labels, 10)
    normal = [(x / np.linalg.norm(x, axis=1)[:, None]).astype(np.float32) for x in (train, queries)]
    order = np.argsort(1 - normal[1] @ normal[0].T, axis=1, kind="stable")[:, :10]
    assert sum(sorted(row[0]) != sorted(found) for row, found in zip(rows, order)) > 100
