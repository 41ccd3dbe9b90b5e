"""The command line: exit codes, outputs that numpy and json read, bad items that fail alone."""

import json
import re
import pathlib
import shutil

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "data/demo/examples"


@pytest.fixture(name="pictures")
def pictures_fixture(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(EXAMPLES / "seven.png", folder / "b.png")
    shutil.copy(EXAMPLES / "seven.png", folder / "deep" / "a.PNG")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_version_names_codecs(siglip):
    result = siglip("--version")
    assert result.returncode == 0
    assert "commit" in result.stdout and "libjpeg" in result.stdout


@pytest.mark.parametrize("command", ["serve", "embed", "classify", "inspect", "bench", "validate", "sample-imagenet"])
def test_every_command_has_help(siglip, command):
    result = siglip(command, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout or "OPTIONS" in result.stdout.upper()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["embed"], ["embed", "--model", "x", "--batch-size", "0"]])
def test_wrong_command_line_is_exit_code_2(siglip, arguments):
    assert siglip(*arguments).returncode == 2


def test_embed_writes_npy_that_numpy_reads(siglip, demo, pictures, tmp_path):
    out = tmp_path / "out.npy"
    result = siglip("embed", "--model", demo, pictures, "--text", "a photo of seven", "--text", "", "-o", out)
    assert result.returncode == 0, result.stderr
    rows = np.load(out)
    assert rows.dtype == np.float32 and rows.shape[0] == 4 and rows.flags["C_CONTIGUOUS"]
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows[0], rows[1])
    names = [json.loads(line) for line in (tmp_path / "out.npy.names.txt").read_text().splitlines()]
    assert names == [str(pictures / "b.png"), str(pictures / "deep/a.PNG"), "a photo of seven", ""]


def test_jsonl_holds_the_same_floats_as_npy(siglip, demo, pictures, tmp_path):
    arguments = ["embed", "--model", demo, pictures / "b.png", "--text", "three"]
    assert siglip(*arguments, "-o", tmp_path / "a.npy").returncode == 0
    result = siglip(*arguments)
    assert result.returncode == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [sorted(row) for row in rows] == [["embedding", "image"], ["embedding", "text"]]
    np.testing.assert_array_equal(
        np.array([row["embedding"] for row in rows], dtype=np.float32), np.load(tmp_path / "a.npy")
    )


def test_a_bad_item_fails_alone_and_is_listed(siglip, demo, pictures, tmp_path):
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a jpeg")
    out = tmp_path / "out.npy"
    result = siglip("embed", "--model", demo, pictures, "-o", out)
    assert result.returncode == 3
    assert np.load(out).shape[0] == 2
    failures = [json.loads(line) for line in (tmp_path / "out.npy.failures.jsonl").read_text().splitlines()]
    assert [failure["name"] for failure in failures] == [str(pictures / "broken.jpg")]
    assert failures[0]["error"]


def test_only_bad_items_is_exit_code_1(siglip, demo, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    assert siglip("embed", "--model", demo, tmp_path / "x.png").returncode == 1


def test_missing_path_and_missing_model_are_named(siglip, demo, tmp_path):
    result = siglip("embed", "--model", demo, tmp_path / "nothing.png")
    assert result.returncode == 1 and "nothing.png" in result.stderr
    result = siglip("embed", "--model", tmp_path / "no_model", "--text", "x")
    assert result.returncode == 1 and "no_model" in result.stderr


def test_classify_finds_the_seven(siglip, demo):
    labels = "zero,one,two,three,four,five,six,seven,eight,nine"
    result = siglip("classify", "--model", demo, "--labels", labels, "--json", "--top", "3", EXAMPLES / "seven.png")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert len(answer["labels"]) == 3
    assert answer["labels"][0]["label"] == "seven"
    assert 0 <= answer["labels"][0]["probability"] <= 1


def test_inspect_tells_a_complete_checkpoint(siglip, demo):
    result = siglip("inspect", demo)
    assert result.returncode == 0 and result.stdout
    assert json.loads(siglip("inspect", "--json", demo).stdout)


def test_inspect_names_what_is_wrong(siglip, demo, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(demo, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (broken / "spiece.model").unlink()
    result = siglip("inspect", broken)
    assert result.returncode == 1
    assert "model.safetensors" in result.stdout and "spiece.model" in result.stdout


def test_auto_is_the_default_and_says_what_it_chose(siglip, demo, tmp_path):
    result = siglip("embed", "--model", demo, "--text", "a", "-o", tmp_path / "default.npy")
    line = re.search(r"precision auto: (fp32|int16) \(.+\)$", result.stderr, re.MULTILINE)
    assert line, result.stderr
    # The same choice wherever it is asked for, and its numbers are those of the precision that it names.
    facts = json.loads(siglip("inspect", "--json", "--precision", "auto", demo).stdout)["facts"]
    assert line[0].endswith(facts["precision auto"])
    assert f", {line[1]}, " in facts["engine"]
    assert line[0] in siglip("serve", "--model", demo, "--dry-run").stdout.splitlines()
    result = siglip("embed", "--model", demo, "--precision", line[1], "--text", "a", "-o", tmp_path / "named.npy")
    assert "precision auto" not in result.stderr
    assert (tmp_path / "named.npy").read_bytes() == (tmp_path / "default.npy").read_bytes()


def test_bench_measures_engine_and_preprocessing(siglip, demo):
    result = siglip("bench", "engine", "--model", demo, "--seconds", "0", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["best_s_per_item"] > 0
    result = siglip("bench", "preprocess", "--size", "384", "--seconds", "0", "--json", EXAMPLES / "seven.png")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["images_per_s"] > 0
