"""`siglip validate`: the table that scikit-learn makes of the same embeddings, damaged data, resuming, a server."""

import csv
import json
import pathlib
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import DEMO, serving
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

ROOT = pathlib.Path(__file__).resolve().parents[3]
DATA = ROOT / "data/demo"
NAFLEX = ROOT / "tests/golden/naflex"


def small_data(folder, classes=6, train=4, valid=5):
    """A part of the demo's data that may be damaged."""
    labels = [f"n{i:08d}" for i in range(1, classes + 1)]
    lines = (DATA / "LOC_synset_mapping.txt").read_text().splitlines()[:classes]
    folder.mkdir()
    (folder / "LOC_synset_mapping.txt").write_text("\n".join(lines) + "\n")
    for split, count in (("train", train), ("valid", valid)):
        for label in labels:
            (folder / split / label).mkdir(parents=True)
            for path in sorted((DATA / split / label).iterdir())[:count]:
                shutil.copy(path, folder / split / label)
    return folder


def table(stdout):
    """The cells of the printed table: {(name, template): (top1, top5)}."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in stdout.splitlines() if line.startswith("|")]
    return {(name, template): (top1, top5) for name, top1, top5, template in rows[2:]}


def test_the_demo_table_is_scikit_learns(siglip, demo, tmp_path):
    result = siglip("validate", "--model", demo, "--data", DATA, "--no-padding", "--save-embeddings", tmp_path / "e",
                    "--json", tmp_path / "v.json", "--predictions", tmp_path / "p.csv", "--html", tmp_path / "v.html")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "v.json").read_text())["rows"]
    predictions = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert len(rows) == 6 and len(predictions) == 6 * 800
    printed = table(result.stdout)
    assert len(printed) == 6

    def load(name):
        names = [json.loads(line) for line in (tmp_path / "e" / f"{name}.npy.names.txt").read_text().splitlines()]
        return np.load(tmp_path / "e" / f"{name}.npy").astype(np.float64), names

    label_of = lambda names: np.array([pathlib.Path(name).parent.name for name in names])  # noqa: E731
    classes = np.array((tmp_path / "e/classes.txt").read_text().split())
    valid, names = load("valid")
    truth = label_of(names)
    train, train_names = load("train")
    fits = [(train, label_of(train_names))] + [(load(f"text_{i}")[0], classes) for i in range(3)]
    fits.append((load("text_unpadded")[0], classes))
    for number, (fit, labels) in enumerate(fits):
        knn = KNeighborsClassifier(n_neighbors=10, weights="distance", metric="cosine").fit(fit, labels)
        probabilities = knn.predict_proba(valid)
        row = rows[number]
        mine = predictions[number * 800:(number + 1) * 800]
        assert [p["path"] for p in mine] == names
        wrong = [p["path"] for p, want in zip(mine, knn.predict(valid)) if p["predicted"] != want]
        assert not wrong
        accuracies = [top_k_accuracy_score(truth, probabilities, k=k, labels=knn.classes_) for k in (1, 5)]
        assert [row["top1"], row["top5"]] == accuracies
        assert printed[row["name"], row["template"]] == tuple(f"{a:.4f}" for a in accuracies)

    unit = lambda x: x / np.linalg.norm(x, axis=1)[:, None]  # noqa: E731
    cosines = unit(valid) @ sum(unit(load(f"text_{i}")[0]) for i in range(3)).T
    means = np.linalg.norm(sum(unit(load(f"text_{i}")[0]) for i in range(3)), axis=1)
    assert rows[5]["top1"] == (classes[(cosines / means).argmax(axis=1)] == truth).mean()


def test_the_page_is_self_contained(siglip, demo, tmp_path):
    data = small_data(tmp_path / "data")
    page = tmp_path / "v.html"
    assert siglip("validate", "--model", demo, "--data", data, "--html", page, "-q").returncode == 0
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text and "data:image/jpeg;base64," in text
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "<script" not in text


def test_damaged_images_and_missing_classes_are_listed(siglip, demo, tmp_path):
    data = small_data(tmp_path / "data")
    damaged = next((data / "valid/n00000002").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:200])
    next((data / "train/n00000001").iterdir()).write_bytes(b"")
    shutil.rmtree(data / "train/n00000003")
    result = siglip("validate", "--model", demo, "--data", data, "--json", tmp_path / "v.json", "--failures",
                    tmp_path / "f.jsonl")
    assert result.returncode == 3, result.stderr
    failed = [json.loads(line)["name"] for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert len(failed) == 2 and str(damaged) in failed and damaged.name in result.stderr
    assert "n00000003" in result.stdout and "count as misses" in result.stdout
    report = json.loads((tmp_path / "v.json").read_text())
    assert report["valid_images"] == 29 and len(report["failures"]) == 2
    assert report["rows"][0]["top1"] <= 24 / 29


def test_embeddings_are_saved_again_and_beside_other_files(siglip, demo, tmp_path):
    data, saved = small_data(tmp_path / "data"), tmp_path / "saved"
    command = ["validate", "-q", "--model", demo, "--data", data, "--save-embeddings"]
    assert siglip(*command, saved).returncode == 0
    first = {path.name: path.read_bytes() for path in saved.iterdir()}
    (saved / "train.npy").write_bytes(b"")
    (saved / "notes").write_text("of somebody")
    assert siglip(*command, saved).returncode == 0
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == first | {"notes": b"of somebody"}
    for arguments, message in (([saved, "--json", saved / "classes.txt"], "are one file"),
                               ([saved, "--html", saved / "valid.npy.names.txt"], "are one file"),
                               ([saved / "notes"], "is no folder"), ([tmp_path / "no/saved"], "there is no folder")):
        result = siglip(*command, *arguments)
        assert result.returncode == 2 and message in result.stderr, result.stderr
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == first | {"notes": b"of somebody"}


def test_one_report_that_cannot_be_written_costs_no_other(siglip, demo, tmp_path):
    data = small_data(tmp_path / "data")
    reports = [tmp_path / name for name in ("p.csv", "v.html", "f.jsonl")]
    result = siglip("validate", "--model", demo, "--data", data, "-q", "--json", "/dev/full", "--predictions", reports[0],
                    "--html", reports[1], "--failures", reports[2], "--save-embeddings", tmp_path / "e")
    assert result.returncode == 1 and "/dev/full" in result.stderr
    assert all(path.is_file() for path in reports) and (tmp_path / "e/valid.npy").is_file()


@pytest.mark.parametrize("arguments, code, says", [
    (["--data", DATA], 2, "either --model"),
    (["--data", DATA], 2, "either --model"),
    (["--data", DATA, "--model", "m", "--url", "localhost:1"], 2, "--model"),
    (["--data", DATA, "--url", "localhost:1", "--pillow", "12"], 2, "--pillow"),
    (["--data", DATA, "--url", "localhost:1", "--precision", "fp32"], 2, "--precision"),
    (["--data", DATA, "--model", "m", "--html", "/proc/nope.html"], 1, "/proc/nope.html"),
    (["--data", DATA, "--url", "localhost:1", "--no-padding"], 2, "always pads"),
    (["--data", DATA, "--model", "m", "--template", "no place"], 2, "{text}"),
    (["--data", DATA, "--model", "m", "--predictions", "x.txt"], 2, ".csv"),
    (["--data", "nowhere", "--model", "models/demo"], 1, "nowhere/LOC_synset_mapping.txt"),
    (["--data", DATA, "--url", "127.0.0.1:1", "--protocol", "http"], 1, "127.0.0.1:1"),
])
def test_wrong_arguments_are_named(siglip, arguments, code, says):
    result = siglip("validate", *arguments)
    assert result.returncode == code and says in result.stderr, result.stderr


def test_a_killed_run_is_taken_up(siglip, demo, tmp_path):
    from conftest import SIGLIP

    cache = tmp_path / "cache"
    arguments = ["validate", "--model", demo, "--data", DATA, "--cache", cache, "--batch-size", "1"]
    process = subprocess.Popen([str(SIGLIP), *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if sum(path.stat().st_size for path in cache.glob("*.embeddings")) > 150_000:
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = siglip(*arguments, "--json", tmp_path / "resumed.json")
    assert result.returncode == 0, result.stderr
    taken_up = int(re.search(r": (\d+) embeddings", result.stderr).group(1))
    assert taken_up > 0
    fresh = siglip("validate", "--model", demo, "--data", DATA, "--json", tmp_path / "fresh.json")
    assert fresh.returncode == 0 and fresh.stdout == result.stdout
    assert (tmp_path / "fresh.json").read_text() == (tmp_path / "resumed.json").read_text()


@pytest.fixture(name="server", scope="module")
def server_fixture():
    with serving(DEMO) as urls:
        yield urls


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_gives_the_same_table(siglip, demo, server, protocol, tmp_path):
    data = small_data(tmp_path / "data")
    next((data / "valid/n00000002").iterdir()).write_bytes(b"not an image")
    reports = []
    for name, source in (("model", ["--model", demo]), ("server", ["--url", server[protocol], "--protocol", protocol])):
        result = siglip("validate", *source, "--data", data, "--json", tmp_path / f"{name}.json")
        assert result.returncode == 3, result.stderr
        reports.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert reports[0]["rows"] == reports[1]["rows"]
    assert reports[0]["failures"][0]["name"] == reports[1]["failures"][0]["name"]


def embeddings_taken(siglip, data, cache, *source):
    result = siglip("validate", "--data", data, "--cache", cache, "-q", *source)
    assert result.returncode == 0, result.stderr
    return int(re.search(r": (\d+) embeddings", result.stderr).group(1))


def test_a_cache_is_of_one_way_to_make_pixels(siglip, tmp_path):
    data, cache = small_data(tmp_path / "data"), tmp_path / "cache"
    for options in (["--max-patches", "160"], ["--max-patches", "170"], ["--max-patches", "170", "--pillow", "12"]):
        source = ["--model", NAFLEX, *options]
        assert embeddings_taken(siglip, data, cache, *source) == 0, options
        assert embeddings_taken(siglip, data, cache, *source) > 0, options


def test_a_cache_of_a_server_is_of_one_way_to_make_pixels(siglip, tmp_path):
    data = small_data(tmp_path / "data")
    for options in (["--max-patches", "160"], ["--max-patches", "161"], ["--max-patches", "161", "--pillow", "12"]):
        with serving(NAFLEX, *options) as urls:
            for protocol in ("http", "grpc"):
                source = ["--url", urls[protocol], "--protocol", protocol]
                cache = tmp_path / protocol
                assert embeddings_taken(siglip, data, cache, *source) == 0, options
                assert embeddings_taken(siglip, data, cache, *source) > 0, options


def test_sample_imagenet_makes_what_validate_reads(siglip, demo, tmp_path):
    source = tmp_path / "imagenet"
    shutil.copytree(DATA / "valid", source / "ILSVRC/Data/CLS-LOC/train")
    shutil.copy(DATA / "LOC_synset_mapping.txt", source)
    result = siglip("sample-imagenet", source, tmp_path / "out", "--train", "5", "--valid", "15")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "out/train").rglob("*.JPEG"))) == 200
    assert siglip("validate", "--model", demo, "--data", tmp_path / "out").returncode == 0
    result = siglip("sample-imagenet", source, tmp_path / "more", "--train", "10", "--valid", "15")
    assert result.returncode == 3 and "expected 25 images, found 20" in result.stderr


def test_sample_imagenet_without_images_is_a_failure(siglip, tmp_path):
    (tmp_path / "source/train/other").mkdir(parents=True)
    shutil.copy(DATA / "LOC_synset_mapping.txt", tmp_path / "source")
    result = siglip("sample-imagenet", tmp_path / "source", tmp_path / "out")
    assert result.returncode == 1 and "found none" in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


def test_bench_knn_runs(siglip):
    result = siglip("bench", "knn", "--rows", "3000", "--queries", "100", "--width", "64", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["measured_per_query"] >= 10
