"""Parquet in and out, against pyarrow: run in the environment arrow, whose wheel siglip is linked with."""

import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from killed_jobs import run_with_kills

ROOT = pathlib.Path(__file__).resolve().parents[3]
SIGLIP = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/cli/siglip"
FILES = sorted((ROOT / "data/demo/train").glob("*/*.JPEG"))[::8]


def embed(*arguments, **options):
    command = [SIGLIP, "embed", "--model", ROOT / "models/demo", *arguments]
    command = list(map(str, command))
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False, **options)


@pytest.fixture(name="rows", scope="module")
def rows_fixture(tmp_path_factory):
    out = tmp_path_factory.mktemp("rows") / "out.npy"
    result = embed(*FILES, "-o", out)
    assert result.returncode == 0, result.stderr
    return np.load(out)


def images():
    return [file.read_bytes() for file in FILES]


def names_of(out):
    return [json.loads(line) for line in pathlib.Path(f"{out}.names.txt").read_text().splitlines()]


def test_parquet_is_built_in():
    result = subprocess.run([SIGLIP, "--version"], capture_output=True, text=True, check=True)
    assert f"parquet: Arrow {pa.__version__}" in result.stdout


def test_an_installed_program_finds_it(tmp_path):
    for component in ("program", "parquet"):
        subprocess.run(["cmake", "--install", SIGLIP.parents[2], "--prefix", tmp_path / "prefix", "--component", component],
                       check=True, capture_output=True)
    moved = (tmp_path / "prefix").rename(tmp_path / "moved")
    program = moved / "bin/siglip"
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert f"parquet: Arrow {pa.__version__}" in result.stdout
    out = tmp_path / "out.parquet"
    command = list(map(str, [program, "embed", "-q", "--model", ROOT / "models/demo", "--text", "a", "-o", out]))
    assert subprocess.run(command, check=False).returncode == 0 and pq.read_table(out).num_rows == 1
    (module,) = moved.rglob("libsiglip_parquet.so")
    module.unlink()
    result = subprocess.run([*command, "--overwrite"], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and str(module) in result.stderr, result.stderr


@pytest.mark.parametrize("type", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("row_group_size", [7, 1000])
def test_a_column_of_bytes_gives_the_rows_of_the_files(rows, tmp_path, type, row_group_size):
    table = pa.table({"id": [f"#{i}" for i in range(len(FILES))], "jpg": pa.array(images(), type)})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=row_group_size, compression="zstd")
    out = tmp_path / "out.npy"
    result = embed(tmp_path / "in.parquet", "--id-column", "id", "-o", out)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(out), rows)
    assert names_of(out) == [f"{tmp_path}/in.parquet/#{i}" for i in range(len(FILES))]


def test_columns_may_be_coded_by_a_dictionary(rows, tmp_path):
    ids = pa.array([f"#{i}" for i in range(len(FILES))]).dictionary_encode()
    pq.write_table(pa.table({"id": ids, "jpg": pa.array(images(), pa.binary()).dictionary_encode()}), tmp_path / "in.parquet")
    out = tmp_path / "out.npy"
    result = embed(tmp_path / "in.parquet", "--id-column", "id", "-o", out)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(out), rows)
    assert names_of(out) == [f"{tmp_path}/in.parquet/#{i}" for i in range(len(FILES))]


def test_a_column_as_hugging_face_writes_it(rows, tmp_path):
    structs = [{"bytes": image, "path": file.name} for image, file in zip(images(), FILES)]
    table = pa.table({"image": structs, "blob": [b"x"] * len(FILES), "label": list(range(len(FILES)))})
    pq.write_table(table, tmp_path / "in.parquet")
    out = tmp_path / "out.npy"
    result = embed(tmp_path / "in.parquet", "-o", tmp_path / "ambiguous.npy")
    assert result.returncode == 1 and "--image-column" in result.stderr and "blob" in result.stderr
    result = embed(tmp_path / "in.parquet", "--image-column", "image", "-o", out)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(out), rows)
    assert names_of(out) == [f"{tmp_path}/in.parquet/{file.name}" for file in FILES]


def test_a_name_of_two_columns_is_refused(rows, tmp_path):
    def write(name, columns, names):
        pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / name)
        return tmp_path / name

    numbers, pictures = pa.array(range(len(FILES))), pa.array(images(), pa.binary())
    one_of_two = write("a.parquet", [numbers, pictures], ["image", "image"])
    both = write("b.parquet", [pictures, pictures], ["image", "image"])
    ids = write("c.parquet", [pictures, numbers, numbers], ["image", "id", "id"])
    out = tmp_path / "out.npy"
    for file, arguments, column in [
        (one_of_two, [], "image"),
        (one_of_two, ["--image-column", "image"], "image"),
        (both, ["--image-column", "image"], "image"),
        (ids, ["--id-column", "id"], "id"),
    ]:
        result = embed(file, *arguments, "-o", out)
        assert result.returncode == 1, (result.returncode, result.stderr)
        assert str(file) in result.stderr and f'"{column}"' in result.stderr and f"{column}, {column}" in (
            result.stderr.replace(" int64", "").replace(" binary", "")
        )
    # Columns that are not read may have what names they like.
    assert embed(ids, "-o", out).returncode == 0
    np.testing.assert_array_equal(np.load(out), rows)


def test_nulls_and_bad_images_fail_alone(rows, tmp_path):
    table = pa.table({"image": [images()[0], None, b"no image", images()[1]]})
    pq.write_table(table, tmp_path / "in.parquet")
    out = tmp_path / "out.npy"
    assert embed(tmp_path / "in.parquet", "-o", out).returncode == 3
    np.testing.assert_array_equal(np.load(out), rows[:2])
    failed = [json.loads(line)["name"] for line in pathlib.Path(f"{out}.failures.jsonl").read_text().splitlines()]
    assert failed == [f"{tmp_path}/in.parquet/1", f"{tmp_path}/in.parquet/2"]


@pytest.mark.parametrize("where", [0.05, 0.5, 0.95])
def test_a_damaged_table_fails_alone(rows, tmp_path, where):
    pq.write_table(pa.table({"image": images()}), tmp_path / "whole.parquet", compression="none")
    whole = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: int(len(whole) * where)])
    damaged = bytearray(whole)
    for i in range(int(len(whole) * where), min(len(whole), int(len(whole) * where) + 64)):
        damaged[i] ^= 0x55
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    out = tmp_path / "out.npy"
    result = embed(tmp_path / "cut.parquet", tmp_path / "damaged.parquet", FILES[0], "-o", out)
    assert result.returncode == 3, result.stderr
    np.testing.assert_array_equal(np.load(out)[-1], rows[0])
    assert "cut.parquet" in pathlib.Path(f"{out}.failures.jsonl").read_text()


@pytest.mark.parametrize("dtype,arrow", [("float32", pa.float32()), ("float16", pa.float16())])
def test_what_is_written_is_a_table_with_metadata(rows, tmp_path, dtype, arrow):
    out = tmp_path / "out.parquet"
    result = embed(*FILES, "--text", "ü \"x\"\n", "--dtype", dtype, "-o", out)
    assert result.returncode == 0, result.stderr
    table = pq.read_table(out)
    assert table.schema.field("embedding").type == pa.list_(pa.field("element", arrow, False), rows.shape[1])
    assert table["name"].to_pylist() == [str(file) for file in FILES] + ['ü "x"\n']
    assert table["kind"].to_pylist() == ["image"] * len(FILES) + ["text"]
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy())[:-1], rows.astype(dtype))
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["siglip.normalized"] == "false" and metadata["siglip.dtype"] == dtype
    meta = json.loads(pathlib.Path(f"{out}.meta.json").read_text())
    assert metadata["siglip.checkpoint_sha256"] == meta["checkpoint_sha256"]


def test_a_killed_job_ends_with_the_same_bytes(tmp_path):
    pq.write_table(pa.table({"image": images() * 10}), tmp_path / "in.parquet", row_group_size=100)
    arguments = [tmp_path / "in.parquet", "--text", "x", "--commit-every", "50"]
    assert embed(*arguments, "-o", tmp_path / "whole.parquet").returncode == 0
    killed = tmp_path / "killed.parquet"
    command = [SIGLIP, "embed", "--model", ROOT / "models/demo", *arguments, "-o", killed]
    code, kills = run_with_kills(command, killed, random.Random(1), ROOT)
    assert code == 0 and kills >= 2
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not (tmp_path / "killed.parquet.parts").exists()


def test_views_and_extension_types_are_read(rows, tmp_path):
    table = tmp_path / "views.parquet"
    names = pa.array([f"picture {i}" for i in range(len(FILES))], pa.string_view())
    pq.write_table(pa.table({"image": pa.array(images(), pa.binary_view()), "name": names}), table)
    out = tmp_path / "out.npy"
    result = embed(table, "--id-column", "name", "-o", out)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(out), rows)
    assert names_of(out)[2] == f"{table}/picture 2"


def test_a_table_that_cannot_be_opened_says_why(tmp_path):
    result = embed("--files-from", "-", "-o", tmp_path / "out.npy", input="nope.parquet\n")
    assert result.returncode == 1 and "No such file or directory" in result.stderr
