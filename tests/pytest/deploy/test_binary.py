"""The program that was built is hardened. The preset dev is not: sanitizers do more."""

import errno
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from conftest import ROOT, load_clients

FIRST_PROCESS = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


def readelf(*arguments):
    return subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture(name="hardened")
def hardened_fixture(binary):
    cache = (binary.parents[2] / "CMakeCache.txt").read_text()
    if not re.search(r"^SIGLIP_SANITIZE:STRING=$", cache, re.MULTILINE):
        load_clients().skip("a build with sanitizers is not hardened")
    return binary


def weaknesses(header, segments, dynamic, symbols):
    """What readelf's -h, -l, -d and --dyn-syms show to be missing."""
    found = []
    if not re.search(r"Type: +DYN", header) or "PIE" not in dynamic:
        found.append("position-independent")
    if "GNU_RELRO" not in segments:
        found.append("read-only relocations")
    if "BIND_NOW" not in dynamic and not re.search(r"FLAGS_1.*NOW", dynamic):
        found.append("bound at the start")
    if re.search(r"GNU_STACK .* RWE ", segments) or "GNU_STACK" not in segments:
        found.append("stack without code")
    if re.search(r"LOAD .* RWE ", segments):
        found.append("no memory both writable and executable")
    if "__stack_chk_fail" not in symbols:
        found.append("stack protector")
    if not re.search(r"__\w+_chk@", symbols.replace("__stack_chk_fail", "")):
        found.append("fortified calls")
    return found


def test_the_program_is_hardened(hardened):
    parts = [readelf(option, hardened) for option in ("-h", "-l", "-d", "--dyn-syms")]
    assert not weaknesses(*parts)


def test_no_machine_path_is_in_the_program(hardened):
    """Two folders give the same bytes (tools/reproducible.sh). A run path of Parquet's library is a folder."""
    text = hardened.read_bytes()
    for match in re.finditer(rb"[\x20-\x7e]*" + re.escape(str(ROOT).encode()) + rb"[\x20-\x7e]*", text):
        assert b".venv/" in match[0], match[0]


def test_our_code_has_landing_pads(hardened):
    if "X86" not in readelf("-h", hardened):
        load_clients().skip("x86 only")
    notes = readelf("-n", hardened.parents[1] / "image/libsiglip_image.a")
    assert notes.count("IBT, SHSTK") == len(re.findall(r"^File: ", notes, re.MULTILINE)) > 5


@pytest.mark.parametrize("flags, missing", [
    (["-no-pie", "-fno-pie"], "position-independent"), (["-Wl,-z,norelro"], "read-only relocations"),
    (["-Wl,-z,lazy"], "bound at the start"), (["-Wl,-z,execstack"], "stack without code"),
    (["-fno-stack-protector"], "stack protector"), (["-U_FORTIFY_SOURCE"], "fortified calls")])
def test_each_weakness_is_found(flags, missing, tmp_path):
    (tmp_path / "a.c").write_text("#include <stdio.h>\n#include <string.h>\nint main(int n, char** a) { char b[16];"
                                  " memset(b, 0, (size_t)n); strcpy(b, a[0]); return puts(b); }\n")
    strong = ["-O2", "-fPIE", "-pie", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-Wl,-z,relro,-z,now"]
    program = tmp_path / "a"
    for options, expected in ((strong, []), (strong + flags, [missing])):
        subprocess.run(["gcc", *options, tmp_path / "a.c", "-o", program], check=True, capture_output=True)
        assert weaknesses(*(readelf(option, program) for option in ("-h", "-l", "-d", "--dyn-syms"))) == expected


def open_once_read(fifo, process):
    while process.poll() is None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO, error
            time.sleep(0.01)
    raise AssertionError(f"exit code {process.returncode}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_job_that_is_the_first_process_ends_at_a_signal(binary, number, tmp_path):
    """As a container's is, to which the kernel sends no signal that it does not handle. The job waits for texts."""
    if subprocess.run([*FIRST_PROCESS, "true"], capture_output=True, check=False).returncode != 0:
        load_clients().skip("no namespaces of processes")
    texts = tmp_path / "texts"
    os.mkfifo(texts)
    command = [binary, "embed", "--model", ROOT / "models/demo", "--texts-from", texts, "-o", tmp_path / "out.npy"]
    with subprocess.Popen([*FIRST_PROCESS, *command]) as job:
        try:
            texts_end = open_once_read(texts, job)
            children = pathlib.Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
            os.kill(int(children[0]), number)
            assert job.wait(timeout=20) == 128 + number
            os.close(texts_end)
        finally:
            job.kill()
