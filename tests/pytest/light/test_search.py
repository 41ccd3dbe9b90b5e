"""`siglip search` against numpy on the files that `siglip embed` wrote; `siglip index` against `siglip search`."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import ROOT

SEVEN = "data/demo/examples/seven.png"
STAR = "data/demo/examples/blue_star.png"
PICTURES = "data/demo/valid/n000000[0-2][0-9]"
# The score is a float64 cosine of float32 rows, written as float32.
TOLERANCE = 1e-6


def rows_of(path):
    names = [json.loads(line) for line in open(f"{path}.names.txt", encoding="utf-8")]
    rows = np.load(path).astype(np.float64)
    return names, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def answers(completed):
    assert completed.returncode == 0, completed.stderr
    return [json.loads(line) for line in completed.stdout.splitlines()]


@pytest.fixture(name="index", scope="module")
def index_fixture(tmp_path_factory):
    from conftest import DEMO, run_siglip
    path = tmp_path_factory.mktemp("search") / "pictures.npy"
    done = run_siglip("embed", "-q", "--model", DEMO, PICTURES, "--text", "not a picture", "-o", path)
    assert done.returncode == 0, done.stderr
    return path


def test_nearest_of_texts_and_pictures(siglip, demo, index, tmp_path):
    found = answers(siglip("search", "--model", demo, index, "--text", "a photo of seven", "--image", STAR, "--image",
                           SEVEN, "--top", 7))
    assert [list(answer)[0] for answer in found] == ["text", "image", "image"]
    assert [answer.get("text") or answer.get("image") for answer in found] == ["a photo of seven", STAR, SEVEN]
    queries = tmp_path / "queries.npy"
    siglip("embed", "-q", "--model", demo, STAR, SEVEN, "--text", "a photo of seven", "-o", queries)
    names, rows = rows_of(index)
    names, rows = names[:-1], rows[:-1]  # the text
    for answer, query in zip(found, rows_of(queries)[1][[2, 0, 1]], strict=True):
        scores = rows @ query
        order = np.argsort(-scores, kind="stable")[:7]
        assert [hit["name"] for hit in answer["hits"]] == [names[i] for i in order]
        np.testing.assert_allclose([hit["score"] for hit in answer["hits"]], scores[order], atol=TOLERANCE)


def test_many_queries_find_what_each_finds_alone(siglip, demo, index, graph):
    texts = [f"a photo of {name}" for name in ("one", "two", "three", "a red circle", "a star", "nothing")]
    for path in (index, graph):
        together = answers(siglip("search", "--model", demo, path, *(word for text in texts for word in ("--text", text))))
        alone = [answers(siglip("search", "--model", demo, path, "--text", text))[0] for text in texts]
        assert together == alone


def test_a_picture_of_the_index_finds_itself(siglip, demo, index):
    names, _ = rows_of(index)
    (found,) = answers(siglip("search", "--model", demo, index, "--image", names[17], "--top", 1))
    assert found["hits"] == [{"name": names[17], "score": 1}]


def test_shards_are_one_index(siglip, demo, index, tmp_path):
    for k in (1, 2, 3):
        siglip("embed", "-q", "--model", demo, PICTURES, "--shard", f"{k}/3", "-o", tmp_path / f"{k}.npy")
    query = ("--text", "a blue star", "--top", 20)
    whole, parts = (answers(siglip("search", "--model", demo, path, *query))[0]["hits"] for path in (index, tmp_path))
    assert [hit["score"] for hit in parts] == [hit["score"] for hit in whole]
    assert {hit["name"] for hit in parts} == {hit["name"] for hit in whole}


def test_rows_of_another_pillow_are_searched_with_a_warning(siglip, demo, tmp_path):
    (tmp_path / "rows").mkdir()
    for pillow in (12, 13):
        assert siglip("embed", "-q", "--model", demo, SEVEN, "--pillow", pillow, "-o",
                      tmp_path / f"rows/{pillow}.npy").returncode == 0
    old = tmp_path / "rows/12.npy"
    commands = (["search", "--model", demo, old, "--text", "seven"],
                ["serve", "--model", demo, "--search-index", old, "--dry-run"])
    for command in commands:
        done = siglip(*command)
        assert done.returncode == 0 and "rows_pillow=12 model_pillow=13" in done.stderr, done.stderr
        assert "rows_of" not in siglip(*command, "--pillow", 12).stderr
    mixed = siglip("index", tmp_path / "rows", "-o", tmp_path / "rows.index")
    assert mixed.returncode == 0 and "pillow=12,13" in mixed.stderr, mixed.stderr
    assert "rows_of" not in siglip("index", old, "-o", tmp_path / "rows.index").stderr


def test_rows_of_other_patches_are_searched_with_a_warning(siglip, tmp_path):
    model = ("--model", "tests/golden/naflex")
    rows = tmp_path / "rows.npy"
    assert siglip("embed", "-q", *model, SEVEN, "--max-patches", 50, "-o", rows).returncode == 0
    for command in (["search", *model, rows, "--image", SEVEN], ["serve", *model, "--search-index", rows, "--dry-run"]):
        done = siglip(*command)
        assert done.returncode == 0 and "rows_max_patches=50 model_max_patches=100" in done.stderr, done.stderr
        assert "rows_of" not in siglip(*command, "--max-patches", 50).stderr


def test_rows_of_another_checkpoint_are_refused_whatever_names_it(siglip, demo, index, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(demo, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-4] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    repository = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", repository)
    for checkpoint, code in ((demo, 0), (other, 1)):
        for config in repository.glob("*/config.pbtxt"):
            text = re.sub(r'(key: "checkpoint" value \{ string_value: )"[^"]*"', rf'\1"{checkpoint}"', config.read_text())
            config.write_text(text)
        for serve in (["--model", checkpoint], ["--model-repository", repository]):
            done = siglip("serve", *serve, "--search-index", index, "--dry-run")
            assert done.returncode == code, (serve, done.stderr)
            assert code == 0 or "checkpoint" in done.stderr, done.stderr


def test_bad_queries_fail_alone(siglip, demo, index, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    done = siglip("search", "--model", demo, index, "--image", tmp_path / "bad.png", "--text", "seven")
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 1
    assert "bad.png" in done.stderr
    assert siglip("search", "--model", demo, index, "--image", tmp_path / "bad.png").returncode == 1


def test_the_table(siglip, demo, index):
    done = siglip("search", "--model", demo, index, "--text", "seven", "--top", 2, "--format", "table")
    lines = done.stdout.splitlines()
    assert lines[0] == "seven" and len(lines) == 3
    assert all(float(line.split()[0]) < 1 and line.split()[1].startswith("data/demo/valid/") for line in lines[1:])
    answer = siglip("search", "--model", demo, index, "--text", "seven", "--top", 2, "--json")
    assert answers(answer)[0]["hits"][0]["name"] == lines[1].split()[1]
    assert siglip("search", "--model", demo, index, "--text", "seven", "--json", "--format", "table").returncode == 2


@pytest.fixture(name="graph", scope="module")
def graph_fixture(index):
    from conftest import run_siglip
    done = run_siglip("index", "-q", index, "-o", index.parent / "pictures.index")
    assert done.returncode == 0, done.stderr
    return index.parent / "pictures.index"


def test_an_index_finds_what_an_exact_search_finds(siglip, demo, index, graph):
    query = ("--text", "a photo of seven", "--image", STAR, "--top", 7)
    exact = answers(siglip("search", "--model", demo, index, *query))
    assert answers(siglip("search", "--model", demo, graph, *query, "--ef", 1000)) == exact
    few = answers(siglip("search", "--model", demo, graph, *query, "--ef", 1))
    for answer, want in zip(few, exact, strict=True):
        assert len(answer["hits"]) == 7
        # Scores are measured as exactly, whatever is missed.
        scores = {hit["name"]: hit["score"] for hit in want["hits"]}
        assert all(scores.get(hit["name"], hit["score"]) == hit["score"] for hit in answer["hits"])
    dry = siglip("serve", "--model", demo, "--search-index", graph, "--search-ef", 50, "--dry-run")
    assert dry.returncode == 0 and f"{len(rows_of(index)[0]) - 1} pictures to search" in dry.stdout


def test_an_index_of_shards_is_the_same_for_one_thread(siglip, demo, tmp_path):
    (tmp_path / "rows").mkdir()
    for k in (1, 2):
        siglip("embed", "-q", "--model", demo, "data/demo/valid/n0000000[0-9]", "--shard", f"{k}/2", "--dtype",
               ("float32", "float16")[k - 1], "-o", tmp_path / f"rows/{k}.npy")
        assert siglip("index", tmp_path / "rows", "-o", tmp_path / f"{k}.index", "--threads", 1).returncode == 0
        if k == 2:
            assert siglip("index", tmp_path / "rows", "-o", tmp_path / "again", "--threads", 1).returncode == 0
    assert (tmp_path / "2.index").read_bytes() == (tmp_path / "again").read_bytes()
    done = siglip("search", "--model", demo, tmp_path / "1.index", "--text", "seven")
    assert done.returncode == 1 and "has changed since: make the index again" in done.stderr
    both = answers(siglip("search", "--model", demo, tmp_path / "2.index", "--text", "seven", "--ef", 500))
    assert both == answers(siglip("search", "--model", demo, tmp_path / "rows", "--text", "seven"))


def test_damaged_indexes_are_refused(siglip, demo, index, graph):
    whole = graph.read_bytes()
    damaged = index.parent / "damaged.index"
    for content in (b"", b"no index", whole[:-1], whole[:100], whole[:-200] + b"\xff" + whole[-199:]):
        damaged.write_bytes(content)
        done = siglip("search", "--model", demo, damaged, "--text", "seven")
        assert done.returncode == 1 and "damaged.index: " in done.stderr, done.stderr
    assert "lost.index" in siglip("search", "--model", demo, index.parent / "lost.index", "--text", "seven").stderr
    assert siglip("index", index, "-o", index.parent / "other.npy").returncode == 2
    assert siglip("index", index, "-o", index.parent / "nowhere/a.index").returncode == 2
    assert siglip("index", damaged, "-o", graph).returncode == 1
    assert graph.read_bytes() == whole
    assert siglip("bench", "search", graph, "--queries", index, "--json").returncode == 0


def test_wrong_indexes_are_named(siglip, demo, index, tmp_path):
    def error(path, code=1):
        done = siglip("search", "--model", demo, path, "--text", "seven")
        assert done.returncode == code, done.stderr
        return done.stderr

    assert "nowhere.npy" in error(tmp_path / "nowhere.npy")
    assert "expected .npy files" in error(tmp_path)
    for suffix in ("", ".names.txt", ".meta.json"):
        shutil.copy(f"{index}{suffix}", tmp_path / f"copy.npy{suffix}")
    meta = json.loads((tmp_path / "copy.npy.meta.json").read_text())
    (tmp_path / "copy.npy.meta.json").write_text(json.dumps({**meta, "checkpoint_sha256": "0" * 64}))
    assert "expected rows of the checkpoint" in error(tmp_path)
    serve = siglip("serve", "--model", demo, "--search-index", tmp_path, "--dry-run")
    assert serve.returncode == 1 and "expected rows of the checkpoint" in serve.stderr
    (tmp_path / "copy.npy.names.txt").unlink()
    (tmp_path / "copy.npy.meta.json").write_text(json.dumps(meta))
    assert "copy.npy.names.txt" in error(tmp_path)
    assert siglip("search", "--model", demo, index).returncode == 2  # no query


def test_rows_that_are_not_finite_make_no_index(siglip, demo, tmp_path):
    rows = tmp_path / "half.npy"
    done = siglip("embed", "-q", "--model", demo, PICTURES, "--dtype", "float16", "-o", rows)
    assert done.returncode == 0, done.stderr
    numbers = np.load(rows)
    numbers[3, 5] = np.inf
    np.save(rows, numbers)
    done = siglip("index", rows, "-o", tmp_path / "half.index")
    assert done.returncode == 1 and f"{rows}: row 3: expected finite numbers" in done.stderr
    done = siglip("search", "--model", demo, rows, "--text", "seven")
    assert done.returncode == 1
    assert f"embedding of {rows_of(rows)[0][3]} (row 3): expected finite numbers" in done.stderr


def test_rows_whose_squares_float32_does_not_hold_are_found_as_by_an_exact_search(siglip, demo, index, tmp_path):
    for suffix in ("", ".names.txt", ".meta.json"):
        shutil.copy(f"{index}{suffix}", tmp_path / f"odd.npy{suffix}")
    numbers = np.load(index)
    for row, scale in ((0, 1e-42), (1, 1e-30), (2, 1e30), (3, 1e36), (4, 0)):
        numbers[row] *= np.float32(scale)
    np.save(tmp_path / "odd.npy", numbers)
    assert siglip("index", tmp_path / "odd.npy", "-o", tmp_path / "odd.index").returncode == 0
    query = ("--image", rows_of(index)[0][1], "--top", 50)
    exact = answers(siglip("search", "--model", demo, tmp_path / "odd.npy", *query))
    assert exact[0]["hits"][0] == {"name": rows_of(index)[0][1], "score": 1}
    assert answers(siglip("search", "--model", demo, tmp_path / "odd.index", *query, "--ef", 1000)) == exact


def test_an_index_that_cannot_be_written_is_told_first(siglip, index):
    done = siglip("index", index, "-o", "/proc/nope.index")
    assert done.returncode == 1 and "/proc/nope.index" in done.stderr and "rows" not in done.stderr
