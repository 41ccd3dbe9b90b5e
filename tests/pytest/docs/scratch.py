"""The folder that a page's commands run in: the repository's files, and what the pages take for granted."""

import functools
import io
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile

from pages import ROOT

# `siglip serve` would stay: it is started on free ports, stopped when it listens, and must end with 0.
SERVE_SHIM = """#!{python}
import os, subprocess, sys
program, arguments = {siglip!r}, sys.argv[1:]
if arguments[:1] != ["serve"] or "--dry-run" in arguments or "--help" in arguments:
    os.execv(program, [program, *arguments])
ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
server = subprocess.Popen([program, *arguments, *ports], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
listening = False
for line in server.stdout:
    print(line, end="", flush=True)
    if "listening http=" in line:
        listening = True
        server.terminate()
sys.exit(server.wait() if listening else server.wait() or 1)
"""
PERF_SHIM = """#!/bin/sh
export LD_LIBRARY_PATH={cudart}
exec {binary} "$@"
"""


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def write_tar(path, images):
    with tarfile.open(path, "w") as tar:
        for image in images:
            data = image.read_bytes()
            entry = tarfile.TarInfo(image.name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def write_parquet(path, images):
    """A Hugging Face dataset's file: struct {bytes, path} and an id."""
    program = (
        "import sys, pathlib, pyarrow as pa, pyarrow.parquet as pq\n"
        "files = [pathlib.Path(name) for name in sys.argv[2:]]\n"
        "image = [{'bytes': f.read_bytes(), 'path': f.name} for f in files]\n"
        "pq.write_table(pa.table({'image': image, 'id': [f.stem for f in files]}), sys.argv[1])\n")
    subprocess.run([ROOT / ".venv/arrow/bin/python", "-c", program, path, *images], check=True)


@functools.cache
def materials():
    """A folder with what every page's folder gets a copy of. Made once: pyarrow's import alone takes a second."""
    made = tempfile.TemporaryDirectory()
    folder = pathlib.Path(made.name)
    examples = sorted((ROOT / "data/demo/examples").iterdir())
    valid = sorted((ROOT / "data/demo/valid").glob("*/*_1*.JPEG"))
    shutil.copytree(ROOT / "data/demo/examples", folder / "pictures")
    (folder / "more/below").mkdir(parents=True)
    shutil.copy(ROOT / "data/demo/examples/red_circle.jpg", folder / "more/below")
    (folder / "shards").mkdir()
    for shard in range(3):
        write_tar(folder / f"shards/{shard:06}.tar", valid[shard * 4:shard * 4 + 4])
    write_parquet(folder / "train.parquet", examples)
    (folder / "captions.txt").write_text("a photo of seven\na photo of a red circle\n")
    (folder / "labels.txt").write_text("seven\nblue star\nred circle\n")
    (folder / "templates.txt").write_text("A photo of {text}.\nA picture of {text}.\n")
    return made


def build(folder, siglip):
    """Fills `folder`; returns the environment of its commands."""
    for entry in ROOT.iterdir():
        if entry.name not in {"build", ".git"}:
            (folder / entry.name).symlink_to(entry)
    preset = siglip.parents[2]
    (folder / "build" / preset.name).mkdir(parents=True)
    (folder / "build" / preset.name / "prefix").symlink_to(preset / "prefix")
    shim = SERVE_SHIM.format(python=sys.executable, siglip=str(siglip))
    write_program(folder / "build/release/src/cli/siglip", shim)
    write_program(folder / "bin/siglip", shim)
    perf = os.environ.get("SIGLIP_PERF_ANALYZER") or ROOT / ".venv/perf/bin/perf_analyzer"
    cudart = next((ROOT / ".venv/perf/lib").glob("python3*/site-packages/nvidia/cuda_runtime/lib"), "")
    write_program(folder / "bin/perf_analyzer",
                  PERF_SHIM.format(binary=perf, cudart=os.environ.get("SIGLIP_CUDART_DIR") or cudart))

    (folder / "DIR").symlink_to(ROOT / "models/demo")
    shutil.copytree(materials().name, folder, dirs_exist_ok=True)
    return {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(preset / "python")}
