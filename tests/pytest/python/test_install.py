"""What `cmake --install` put into build/PRESET/prefix is used as from outside: CMake, pkg-config, man, bash, systemd.

The prefix is moved first: nothing in it may know where it was.
"""

import ctypes.util
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci")

CMAKE = """cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C CXX)
find_package(siglip 0.1 REQUIRED)
add_executable(in_c consumer.c)
target_link_libraries(in_c PRIVATE siglip::c)
add_executable(in_cpp consumer.cc)
target_link_libraries(in_cpp PRIVATE siglip::siglip)
"""
IN_C = r"""#include <siglip/siglip_c.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char** argv) {
  siglip_model* model = NULL;
  siglip_error* error = argc == 3 ? siglip_model_open(argv[1], NULL, &model) : NULL;
  float row[4096];
  siglip_image image = {SIGLIP_IMAGE_PATH, argv[2], strlen(argv[2]), 0, 0};
  if (error == NULL) error = siglip_embed_images(model, &image, 1, row, NULL);
  if (error != NULL) return fputs(siglip_error_message(error), stderr), 1;
  for (int64_t i = 0; i < siglip_embedding_size(model); ++i) printf("%.9g\n", row[i]);
  siglip_model_free(model);
  return 0;
}
"""
IN_CPP = r"""#include <siglip/siglip.h>
#include <cstdio>
#include <fstream>
#include <iterator>
int main(int, char** argv) {
  auto model = siglip::Model::Open(argv[1]);
  if (!model.ok()) return 1;
  std::ifstream file(argv[2], std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const auto row = (*model)->EmbedImage(bytes);
  if (!row.ok()) return 2;
  for (const float x : *row) std::printf("%.9g\n", x);
}
"""


@pytest.fixture(name="prefix", scope="module")
def prefix_fixture(tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "prefix"
    shutil.copytree(BUILD / "prefix", moved, symlinks=True)
    return moved


@pytest.fixture(name="library", scope="module")
def library_fixture(prefix):
    return next(prefix.rglob("libsiglip.so")).parent


def rows_of(prefix, library, program, picture=ROOT / "data/demo/examples/seven.png"):
    """What a consumer prints, checked against `siglip embed` of the same prefix."""
    run = subprocess.run([program, ROOT / "models/demo", picture], check=True, capture_output=True, text=True,
                         env={**os.environ, "LD_LIBRARY_PATH": str(library)})
    embed = subprocess.run([prefix / "bin/siglip", "embed", "-q", "--model", ROOT / "models/demo", picture], check=True,
                           capture_output=True, text=True)
    want = np.array(embed.stdout.split('"embedding":[')[1].split("]")[0].split(","), np.float32)
    assert np.array_equal(np.array(run.stdout.split(), np.float32), want)


def test_a_cmake_project_finds_both_libraries(prefix, library, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    (tmp_path / "consumer.c").write_text(IN_C)
    (tmp_path / "consumer.cc").write_text(IN_CPP)
    subprocess.run(["cmake", "-G", "Ninja", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}"],
                   check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", tmp_path / "build"], check=True, stdout=subprocess.DEVNULL)
    rows_of(prefix, library, tmp_path / "build/in_c")
    rows_of(prefix, library, tmp_path / "build/in_cpp")


def test_pkg_config_knows_the_flags(prefix, library, tmp_path):
    environment = {**os.environ, "PKG_CONFIG_PATH": str(library / "pkgconfig")}
    (tmp_path / "consumer.c").write_text(IN_C)
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "siglip"], check=True, capture_output=True, text=True,
                           env=environment).stdout.split()
    subprocess.run(["gcc", tmp_path / "consumer.c", "-o", tmp_path / "in_c", *flags], check=True)
    rows_of(prefix, library, tmp_path / "in_c")
    cpp = subprocess.run(["pkg-config", "--libs", "siglip-cpp"], check=True, capture_output=True, text=True,
                         env=environment).stdout
    assert "-lsiglip" in cpp and "-labsl_status" in cpp


def test_a_program_with_a_codec_inside_keeps_it_to_itself(prefix, library, tmp_path):
    """With the option that docs/c-api.md names; without it the library would call the program's."""
    (tmp_path / "codec.c").write_text("int WebPGetFeaturesInternal(void) { return 7; }\n")
    (tmp_path / "consumer.c").write_text(IN_C.replace("int main", "int WebPGetFeaturesInternal(void);\nint main", 1).replace(
        "return 0;", "return WebPGetFeaturesInternal() - 7;"))
    subprocess.run(["gcc", "-c", tmp_path / "codec.c", "-o", tmp_path / "codec.o"], check=True)
    subprocess.run(["ar", "rcs", tmp_path / "libcodec.a", tmp_path / "codec.o"], check=True)
    subprocess.run(["gcc", tmp_path / "consumer.c", tmp_path / "libcodec.a", "-o", tmp_path / "in_c", "-Wl,--exclude-libs,ALL",
                    f"-I{prefix}/include", f"-L{library}", "-lsiglip"], check=True)
    rows_of(prefix, library, tmp_path / "in_c", ROOT / "tests/data/image/alpha.webp")


def test_the_library_shows_its_api_and_nothing_else(library):
    shown = subprocess.run(["nm", "-D", "--defined-only", "-C", library / "libsiglip.so"], check=True,
                           capture_output=True, text=True).stdout
    names = [line.split(maxsplit=2)[2] for line in shown.splitlines()]
    other = [name for name in names if not name.startswith(("siglip_", "siglip::Model::")) and "SIGLIP_0" not in name]
    assert other == [] and len(names) > 20


def test_the_man_page_has_every_command(prefix):
    page = prefix / "share/man/man1/siglip.1"
    text = page.read_text()
    for command in ("serve", "embed", "classify", "validate", "inspect", "bench", "bench engine", "bench server"):
        assert f".SH SIGLIP {command.upper()}\n" in text
    assert r"\-\-model\-repository" in text and r"\-\-raw\-inputs" in text
    assert '.SS "Addresses and ports"\n' in text
    if shutil.which("man") is None:
        pytest.skip("no man")
    run = subprocess.run(["man", "--warnings=mac", "-l", page], capture_output=True, text=True, check=True,
                         env={**os.environ, "MANPAGER": "cat", "MAN_KEEP_FORMATTING": ""})
    assert run.stderr == "" and "--metrics-port" in run.stdout


def completions(prefix, *words):
    script = (f"source {prefix}/share/bash-completion/completions/siglip; COMP_WORDS=(\"$@\"); "
              "COMP_CWORD=$(($# - 1)); _siglip; printf '%s\\n' \"${COMPREPLY[@]}\"")
    run = subprocess.run(["bash", "-c", script, "bash", "siglip", *words], check=True, capture_output=True, text=True,
                         env={**os.environ, "PATH": f"{prefix}/bin:{os.environ['PATH']}"})
    return run.stdout.split()


@pytest.mark.parametrize("words, expected", [
    (["cl"], ["classify"]), (["classify", "--labels-"], ["--labels-file"]), (["embed", "-0"], ["-0"]),
    (["serve", "--model-s"], ["--model-store"]), (["--log-level", "warn", "serve", "--http-p"], ["--http-port"]),
    (["bench", ""], ["engine", "knn", "preprocess", "search", "server"]), (["bench", "engine", "--ra"], ["--raw-inputs"]),
    # What a description names is no option, nor is a picture a command.
    (["embed", "--v"], ["--version"]), (["embed", "-p"], []), (["embed", "serve", "--http-p"], []), (["embed", ""], [])])
def test_bash_completes(prefix, words, expected):
    assert completions(prefix, *words) == expected


def test_the_gpu_engine_is_installed(prefix, library):
    """With the libraries that it needs, where the program finds it; else the program says what it misses."""
    def gpus():
        return subprocess.run([prefix / "bin/siglip", "--version"], check=True, capture_output=True,
                              text=True).stdout.splitlines()[-1]

    if "SIGLIP_CUDA:BOOL=ON" not in (BUILD / "CMakeCache.txt").read_text():
        assert "built without CUDA" in gpus() and not list(prefix.rglob("libsiglip_cuda.so"))
        return
    module = library / "libsiglip_cuda.so"
    needs = subprocess.run(["ldd", module], check=True, capture_output=True, text=True).stdout
    assert "libcublasLt" in needs and "not found" not in needs
    assert "libsiglip_cuda.so" not in gpus() and "built without" not in gpus()
    hidden = module.rename(module.with_suffix(".hidden"))
    assert "libsiglip_cuda.so was not found" in gpus()
    hidden.rename(module)


def test_systemd_takes_the_unit(prefix, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    unit = tmp_path / "siglip.service"
    text = (prefix / "lib/systemd/system/siglip.service").read_text()
    # The program is looked for in fixed folders only.
    unit.write_text(text.replace("ExecStart=siglip ", f"ExecStart={prefix}/bin/siglip "))
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "siglip.service" not in run.stderr, run.stderr
    run = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=25", unit], capture_output=True,
                         text=True, check=False)
    assert run.returncode == 0, run.stdout[-400:]


# Runs a command under the system calls that a unit's SystemCallFilter allows; EPERM for the others, as the unit says.
CONFINED = r"""
import ctypes, errno, os, subprocess, sys

def calls(name):
    run = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True)
    for word in run.stdout.split("\n")[1:]:
        word = word.strip()
        if word.startswith("@"):
            yield from calls(word)
        elif word and not word.startswith("#"):
            yield word

library, libc = ctypes.CDLL("libseccomp.so.2"), ctypes.CDLL(None)
library.seccomp_init.restype = ctypes.c_void_p
refuse = lambda error: 0x00050000 | error
context = ctypes.c_void_p(library.seccomp_init(refuse(errno.EPERM)))
late = {"clone3", "openat2"}  # RestrictNamespaces and RestrictSUIDSGID hide these
for name in set(calls(sys.argv[1])) | late:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        library.seccomp_rule_add(context, refuse(errno.ENOSYS) if name in late else 0x7FFF0000, number, 0)
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 38, 65
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # MemoryDenyWriteExecute; older kernels have it not
assert library.seccomp_load(context) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_the_units_system_calls_are_enough(prefix, tmp_path):
    """For the server, and for decode workers in their sandbox."""
    if shutil.which("systemd-analyze") is None or ctypes.util.find_library("seccomp") is None:
        pytest.skip("no systemd-analyze or no libseccomp")
    unit = (prefix / "lib/systemd/system/siglip.service").read_text()
    allowed = re.search(r"^SystemCallFilter=(\S+)$", unit, re.MULTILINE)[1]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = tmp_path / "log"
    command = [sys.executable, "-c", CONFINED, allowed, prefix / "bin/siglip", "serve", "--model", ROOT / "models/demo",
               "--cache-dir", tmp_path / "cache", "--decode-workers", "1", "--http-port", str(port), "--allow-grpc", "false",
               "--allow-metrics", "false"]
    with open(log, "wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        try:
            url = f"http://127.0.0.1:{port}/v2/models/embed_image/infer"
            picture = urllib.request.Request(url, (ROOT / "data/demo/examples/seven.png").read_bytes(), {
                "Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"})
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    with urllib.request.urlopen(picture, timeout=20) as answer:
                        assert answer.status == 200
                        break
                except urllib.error.HTTPError:
                    raise
                except OSError:
                    time.sleep(0.1)
            else:
                pytest.fail(log.read_text())
        finally:
            process.terminate()
    assert process.returncode == 0 and 'sandbox="seccomp"' in log.read_text(), log.read_text()
