"""`siglip embed` as a bulk job: every kind of input gives the same rows, nothing stops it, a kill loses nothing."""

import gzip
import io
import json
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from conftest import DEMO, ROOT, SIGLIP

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from killed_jobs import run_with_kills

IMAGES = sorted((ROOT / "data/demo/train").glob("*/*.JPEG"))[::8]


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bulk") / "images"
    for image in IMAGES:
        (folder / image.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / image.parent.name)
    return folder


def files_of(folder):
    return sorted(folder.rglob("*.JPEG"))


@pytest.fixture(name="rows", scope="module")
def rows_fixture(folder, tmp_path_factory):
    from conftest import run_siglip

    out = tmp_path_factory.mktemp("rows") / "out.npy"
    result = run_siglip("embed", "--model", DEMO, folder, "-o", out)
    assert result.returncode == 0, result.stderr
    return np.load(out)


def write_tar(path, folder, mode="w", captions=True, format=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=format) as tar:
        for file in files_of(folder):
            tar.add(file, file.relative_to(folder))
            if captions:
                caption = file.with_suffix(".txt").relative_to(folder)
                member = tarfile.TarInfo(str(caption))
                member.size = 5
                tar.addfile(member, io.BytesIO(b"hello"))
    return path


def names_of(out):
    return [json.loads(line) for line in pathlib.Path(f"{out}.names.txt").read_text().splitlines()]


def failures_of(out):
    return [json.loads(line) for line in pathlib.Path(f"{out}.failures.jsonl").read_text().splitlines()]


def meta_of(out):
    return json.loads(pathlib.Path(f"{out}.meta.json").read_text())


@pytest.mark.parametrize("suffix,mode", [("tar", "w"), ("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")])
def test_a_tar_gives_the_rows_of_its_folder(siglip, demo, folder, rows, tmp_path, suffix, mode):
    tar = write_tar(tmp_path / f"shard.{suffix}", folder, mode)
    result = siglip("embed", "--model", demo, tar, "-o", tmp_path / "out.npy")
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rows)
    assert names_of(tmp_path / "out.npy") == [f"{tar}/{file.relative_to(folder)}" for file in files_of(folder)]


@pytest.mark.parametrize("null", [False, True])
def test_a_list_on_stdin_gives_the_rows_of_the_folder(siglip, demo, folder, rows, tmp_path, null):
    end = "\0" if null else "\n"
    text = "".join(f"{file}{end}" for file in files_of(folder))
    arguments = ["embed", "--model", demo, "--files-from", "-", "-o", tmp_path / "out.npy"] + ["-0"] * null
    result = siglip(*arguments, input=text)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rows)


@pytest.mark.parametrize("pattern", ["*/*.JPEG", "**/*.JPEG", "n000000*"])
def test_a_quoted_pattern_gives_the_rows_of_the_folder(siglip, demo, folder, rows, tmp_path, pattern):
    result = siglip("embed", "--model", demo, f"{folder}/{pattern}", "-o", tmp_path / "out.npy")
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rows)


def test_a_folder_of_shards_is_walked(siglip, demo, folder, rows, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(shards / "0.tar", folder)
    write_tar(shards / "1.tar", folder)
    (shards / "0.parquet").write_bytes(b"captions, as img2dataset leaves them")
    assert siglip("embed", "--model", demo, shards, "-o", tmp_path / "out.npy").returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.concatenate([rows, rows]))


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_in_a_tar_may_be_long_and_not_ascii(siglip, demo, folder, tmp_path, format):
    names = ["é/ö.JPEG", "x" * 90 + "/" + "y" * 120 + ".JPEG"]
    with tarfile.open(tmp_path / "a.tar", "w", format=format) as tar:
        for name in names:
            tar.add(files_of(folder)[0], name)
    assert siglip("embed", "--model", demo, tmp_path / "a.tar", "-o", tmp_path / "out.npy").returncode == 0
    assert names_of(tmp_path / "out.npy") == [f"{tmp_path}/a.tar/{name}" for name in names]


def test_texts_come_from_files_too(siglip, demo, tmp_path):
    texts = ["a photo of seven", "", "two words"]
    (tmp_path / "texts").write_text("a photo of seven\n\ntwo words\n")
    out = tmp_path / "out.npy"
    result = siglip("embed", "--model", demo, "--text", "first", "--texts-from", tmp_path / "texts", "-o", out)
    assert result.returncode == 0, result.stderr
    assert names_of(out) == ["first", texts[0], texts[2]], "empty lines are skipped"


def test_float16_is_numpys_rounding(siglip, demo, folder, rows, tmp_path):
    out = tmp_path / "half.npy"
    assert siglip("embed", "--model", demo, folder, "--dtype", "float16", "-o", out).returncode == 0
    half = np.load(out)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, rows.astype(np.float16))
    jsonl = tmp_path / "half.jsonl"
    assert siglip("embed", "--model", demo, folder, "--dtype", "float16", "-o", jsonl).returncode == 0
    lines = [json.loads(line)["embedding"] for line in jsonl.read_text().splitlines()]
    np.testing.assert_array_equal(np.array(lines, np.float32), half.astype(np.float32))


def test_normalized_rows_are_the_rows_over_their_length(siglip, demo, folder, rows, tmp_path):
    out = tmp_path / "out.npy"
    assert siglip("embed", "--model", demo, folder, "--normalize", "-o", out).returncode == 0
    wide = rows.astype(np.float64)
    expected = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    np.testing.assert_array_max_ulp(np.load(out), expected, maxulp=1)  # the sum's order may differ
    assert meta_of(out)["normalized"] is True


def test_metadata_says_what_the_rows_depend_on(siglip, demo, folder, rows, tmp_path):
    out = tmp_path / "out.npy"
    assert siglip("embed", "--model", demo, folder, "--text", "x", "-o", out).returncode == 0
    meta = meta_of(out)
    assert meta["model"] == str(demo) and meta["embedding_size"] == rows.shape[1]
    assert meta["dtype"] == "float32" and meta["normalized"] is False and meta["shard"] == "1/1"
    assert (meta["images"], meta["texts"], meta["failed"]) == (len(rows), 1, 0)
    assert len(meta["checkpoint_sha256"]) == 64 and meta["siglip_version"] and meta["engine"].startswith("cpu")


@pytest.mark.parametrize("count", [2, 3])
def test_shards_share_the_whole(siglip, demo, folder, rows, tmp_path, count):
    tar = write_tar(tmp_path / "a.tar", folder)
    found = {}
    for index in range(1, count + 1):
        out = tmp_path / f"{index}.npy"
        shard = f"{index}/{count}"
        result = siglip("embed", "--model", demo, folder, tar, "--text", "x", "--shard", shard, "-o", out)
        assert result.returncode == 0, result.stderr
        part = dict(zip(names_of(out), np.load(out)))
        assert not found.keys() & part.keys()
        assert abs(len(part) - (2 * len(rows) + 1) / count) <= 2
        found |= part
    for file, row in zip(files_of(folder), rows):
        np.testing.assert_array_equal(found[str(file)], row)
        np.testing.assert_array_equal(found[f"{tar}/{file.relative_to(folder)}"], row)
    assert len(found) == 2 * len(rows) + 1


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("suffix", ["npy", "jsonl"])
def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(siglip, demo, folder, tmp_path, suffix):
    tar = write_tar(tmp_path / "a.tar", folder)
    (tmp_path / "list").write_text("".join(f"{file}\nmissing.jpg\n" for file in files_of(folder) * 10))
    arguments = ["embed", "--model", demo, tar, "--files-from", tmp_path / "list", "--text", "x", "--commit-every", "25"]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert siglip(*arguments, "-o", whole / f"out.{suffix}").returncode == 3
    killed = tmp_path / "killed"
    killed.mkdir()
    out = killed / f"out.{suffix}"
    code, kills = run_with_kills([SIGLIP, *arguments, "-o", out], out, random.Random(suffix), ROOT)
    assert code == 3 and kills >= 2
    assert contents(killed) == contents(whole)
    again = siglip(*arguments, "--keep-finished", "-o", killed / f"out.{suffix}")
    assert again.returncode == 3 and "complete already" in again.stderr
    assert contents(killed) == contents(whole)


def test_a_kept_output_of_another_job_is_refused_and_says_why(siglip, demo, folder, tmp_path):
    out = tmp_path / "out.npy"
    assert siglip("embed", "--model", demo, folder, "-o", out).returncode == 0
    before = contents(tmp_path)
    result = siglip("embed", "--model", demo, folder, "--dtype", "float16", "--keep-finished", "-o", out)
    assert result.returncode == 1
    assert "dtype" in result.stderr and "float16" in result.stderr and "--keep-finished" in result.stderr
    result = siglip("embed", "--model", demo, folder, "--text", "more", "--keep-finished", "-o", out)
    assert result.returncode == 1 and "inputs" in result.stderr
    other = tmp_path / "model"
    shutil.copytree(demo, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config, indent=3))
    result = siglip("embed", "--model", other, folder, "--keep-finished", "-o", out)
    assert result.returncode == 1 and "checkpoint_sha256" in result.stderr
    shutil.rmtree(other)
    assert contents(tmp_path) == before
    assert siglip("embed", "--model", demo, folder, "--dtype", "float16", "-o", out).returncode == 0
    assert np.load(out).dtype == np.float16


@pytest.mark.parametrize("what", ["commit", "codecs", "siglip_version"])
def test_a_job_begun_by_another_program_is_refused(siglip, demo, folder, tmp_path, what):
    out = tmp_path / "out.npy"
    assert siglip("embed", "--model", demo, folder, "-o", out).returncode == 0
    meta = meta_of(out)
    assert meta[what]
    pathlib.Path(f"{out}.meta.json").write_text(json.dumps({**meta, what: "another"}))
    result = siglip("embed", "--model", demo, folder, "--keep-finished", "-o", out)
    assert result.returncode == 1 and f'{what} was "another"' in result.stderr


def test_rows_behind_a_symlink_are_found(siglip, demo, folder, rows, tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "out.npy"
    link.symlink_to("far/rows.npy")
    assert siglip("embed", "--model", demo, folder, "-o", link).returncode == 0
    assert link.is_symlink() and [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.npy"]
    np.testing.assert_array_equal(np.load(link), rows)
    result = siglip("search", "--model", demo, link, "--text", "seven")
    assert result.returncode == 0, result.stderr


def test_a_failures_list_that_cannot_be_written_is_told_first(siglip, demo, folder, tmp_path):
    out = tmp_path / "out.npy"
    assert siglip("embed", "--model", demo, folder, "-o", out).returncode == 0
    before = contents(tmp_path)
    result = siglip("embed", "--model", demo, "--text", "other", "-o", out, "--failures", "/proc/nope")
    assert result.returncode == 1 and "/proc/nope" in result.stderr
    for name, content in before.items():
        assert contents(tmp_path)[name] == content


def test_symlinks_to_nothing_are_failures(siglip, demo, folder, rows, tmp_path):
    copy, out = tmp_path / "copy", tmp_path / "out.npy"
    shutil.copytree(folder, copy)
    (copy / "broken.jpg").symlink_to("nowhere")
    (copy / "broken.tar").symlink_to("nowhere")
    assert siglip("embed", "--model", demo, copy, "-o", out).returncode == 3
    np.testing.assert_array_equal(np.load(out), rows)
    failures = [json.loads(line)["name"] for line in open(f"{out}.failures.jsonl", encoding="utf-8")]
    assert failures == [f"{copy}/broken.jpg", f"{copy}/broken.tar"]


def test_an_output_in_the_checkpoints_folder_makes_no_other_checkpoint(siglip, demo, folder, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(demo, model)
    out = model / "out.npy"
    assert siglip("embed", "--model", model, folder, "-o", out).returncode == 0
    assert siglip("embed", "--model", model, folder, "--keep-finished", "-o", out).returncode == 0
    result = siglip("search", "--model", model, out, "--text", "seven")
    assert result.returncode == 0, result.stderr


def test_a_full_disk_is_an_error_and_a_later_run_goes_on(siglip, demo, folder, rows, tmp_path):
    out = tmp_path / "out.npy"
    limit = rows.nbytes // 2
    arguments = ["embed", "--model", demo, folder, "--commit-every", "5", "-o", out]
    result = siglip(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert result.returncode == 1
    assert "out.npy.parts/rows" in result.stderr and "File too large" in result.stderr
    assert not out.exists()
    result = siglip(*arguments)
    assert result.returncode == 0 and "going on" in result.stderr
    np.testing.assert_array_equal(np.load(out), rows)


def test_a_damaged_tar_gives_what_is_whole(siglip, demo, folder, rows, tmp_path):
    tar = write_tar(tmp_path / "a.tar", folder, captions=False)
    tar.write_bytes(tar.read_bytes()[:20_000])
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(write_tar(tmp_path / "whole.tar", folder).read_bytes())[:20_000])
    (tmp_path / "none.tar").write_bytes(b"")
    out = tmp_path / "out.npy"
    paths = [tar, packed, tmp_path / "none.tar", tmp_path / "list.jpg", files_of(folder)[0]]
    (tmp_path / "list.jpg").write_bytes(b"no image")
    result = siglip("embed", "--model", demo, *paths, "-o", out)
    assert result.returncode == 3
    failed = [failure["name"] for failure in failures_of(out)]
    assert {str(tar), str(packed), str(tmp_path / "none.tar"), str(tmp_path / "list.jpg")} <= set(failed)
    assert len(np.load(out)) > 4
    np.testing.assert_array_equal(np.load(out)[0], rows[0])
    np.testing.assert_array_equal(np.load(out)[-1], rows[0])


def test_hostile_members_fail_alone(siglip, demo, folder, rows, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(files_of(folder)[0], "../../up.jpg")
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(files_of(folder)[0])
        tar.addfile(link)
        tar.add(files_of(folder)[1], "/absolute.jpg")
    out = tmp_path / "out.npy"
    result = siglip("embed", "--model", demo, tmp_path / "a.tar", "-o", out)
    assert result.returncode == 3
    np.testing.assert_array_equal(np.load(out), rows[:2])
    assert [failure["name"] for failure in failures_of(out)] == [f"{tmp_path}/a.tar/link.jpg"]
    assert not (tmp_path.parent / "up.jpg").exists()


def peak_rss_kb(arguments):
    """Peak resident memory of one run, by a parent of its own: RUSAGE_CHILDREN keeps the largest of all."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    python = [str(ROOT / ".venv/light/bin/python"), "-c", script]
    return int(subprocess.run([*python, *map(str, arguments)], cwd=ROOT, check=True, capture_output=True).stdout)


def test_memory_does_not_grow_with_the_number_of_files(folder, tmp_path):
    peaks = []
    for count in (1000, 6000):
        files = files_of(folder)
        (tmp_path / "list").write_text("".join(f"{files[i % len(files)]}\n" for i in range(count)))
        arguments = [SIGLIP, "embed", "--model", DEMO, "--files-from", tmp_path / "list"]
        peaks.append(peak_rss_kb([*arguments, "-o", tmp_path / f"{count}.npy"]))
    # What may grow: a name's bytes and eight more (0.3 MB here), doubled while the list grows.
    names = (tmp_path / "list").stat().st_size + 8 * 6000
    assert peaks[1] - peaks[0] < 2 * names / 1024 + 1024, peaks


def test_zero_bytes_end_the_names_of_pictures_not_texts(siglip, demo, folder, tmp_path):
    texts = tmp_path / "texts"
    texts.write_text("a red circle\na blue star\n")
    out = tmp_path / "out.npy"
    result = siglip("embed", "--model", demo, "--files-from", "-", "-0", "--texts-from", texts, "-o", out,
                    input=f"{files_of(folder)[0]}\0")
    assert result.returncode == 0, result.stderr
    assert names_of(out) == [str(files_of(folder)[0]), "a red circle", "a blue star"]


def test_an_older_list_of_failures_goes_when_another_is_named(siglip, demo, folder, tmp_path):
    out, bad = tmp_path / "out.npy", tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    assert siglip("embed", "--model", demo, bad, files_of(folder)[0], "-o", out).returncode == 3
    assert failures_of(out)
    named = tmp_path / "named.jsonl"
    assert siglip("embed", "--model", demo, files_of(folder)[0], "-o", out, "--failures", named).returncode == 0
    assert named.read_text() == "" and not pathlib.Path(f"{out}.failures.jsonl").exists()
    # The same file under its name is the list.
    unnamed = f"{out}.failures.jsonl"
    assert siglip("embed", "--model", demo, bad, files_of(folder)[0], "-o", out, "--failures", unnamed).returncode == 3
    assert failures_of(out)


def test_a_kept_output_has_its_lists_or_is_refused(siglip, demo, folder, tmp_path):
    out, bad, named = tmp_path / "out.npy", tmp_path / "bad.png", tmp_path / "named.jsonl"
    bad.write_bytes(b"no picture")
    job = ["embed", "--model", demo, bad, files_of(folder)[0], "-o", out, "--keep-finished"]
    assert siglip(*job).returncode == 3
    named.write_text("of another job\n")
    result = siglip(*job, "--failures", named)
    assert result.returncode == 3 and str(named) in result.stderr
    assert named.read_text() == pathlib.Path(f"{out}.failures.jsonl").read_text() != ""
    pathlib.Path(f"{out}.failures.jsonl").unlink()
    assert siglip(*job, "--failures", named).returncode == 3
    result = siglip(*job)
    assert result.returncode == 1 and "failures.jsonl is gone" in result.stderr
    pathlib.Path(f"{out}.names.txt").unlink()
    result = siglip(*job, "--failures", named)
    assert result.returncode == 1 and "names.txt is gone" in result.stderr


def test_an_archive_that_cannot_be_opened_says_why(siglip, demo, tmp_path):
    result = siglip("embed", "--model", demo, "--files-from", "-", "-o", tmp_path / "out.npy", input="nope.tar\n")
    assert result.returncode == 1 and "No such file or directory" in result.stderr
