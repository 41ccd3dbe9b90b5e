"""The command line: exit codes, outputs that numpy and json read, bad items that fail alone."""

import json
import os
import pathlib
import pty
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from conftest import serving
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[3]
SIGLIP = ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/cli/siglip"
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


@pytest.mark.parametrize("command", [
    ["serve"], ["embed"], ["classify"], ["index"], ["search"], ["inspect"], ["bench"], ["validate"], ["sample-imagenet"],
    ["bench", "engine"], ["bench", "knn"], ["bench", "preprocess"], ["bench", "search"], ["bench", "server"],
])
def test_every_command_has_help_and_version(siglip, command):
    result = siglip(*command, "--help")
    assert result.returncode == 0
    assert "--version" in result.stdout and "--log-level" in result.stdout
    version = siglip(*command, "--version")
    assert version.returncode == 0 and version.stdout == siglip("--version").stdout, version.stderr


def headings(siglip, *command):
    """Of a --help, with the options below each."""
    text = siglip(*command, "--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    found = re.findall(r"^(\S[^:\n]*):\n((?: .*\n)+)", text, re.MULTILINE)
    return {heading: re.findall(r"^  ((?:-\w,)?--[a-z0-9-]+|[a-z]+)", options, re.MULTILINE) for heading, options in found}


def test_help_is_grouped_by_subject(siglip):
    serve = headings(siglip, "serve")
    assert list(serve)[:5] == ["Model", "Addresses and ports", "Computing", "Pictures", "Limits of load"]
    assert list(serve)[-1] == "General" and serve["General"] == ["-h,--help", "--version", "--log-level"]
    assert serve["Model"] == ["--model", "--model-repository", "--model-config-name", "--dry-run"]
    assert "--http-port" in serve["Addresses and ports"] and "--api-key-file" in serve["Access"]
    assert "--http-use-ssl" in serve["TLS"] and "--trace-config" in serve["Trace"]
    for command in ("embed", "classify", "search", "validate"):
        groups = headings(siglip, command)
        assert {"Model", "Computing", "Pictures", "Output", "General"} <= set(groups), command
        assert "--model" in groups["Model"]
    assert "[default: A photo of {text}.;" in re.sub(r"\s+", " ", siglip("classify", "--help").stdout)
    assert headings(siglip, "classify")["Labels (one of them)"] == ["--labels", "--labels-file"]
    assert headings(siglip, "search")["Queries (at least one)"] == ["--text", "--image"]
    text = siglip("serve", "--help").stdout
    assert re.search(r"^  --http-port N +0 = any free port \[default: 8000\]$", text, re.MULTILINE)
    # Triton's that mean nothing here take a sentence and no more.
    assert "--rate-limit" in re.sub(r"\s+", " ", text).partition("have no effect here:")[2]


def test_the_log_level_stands_before_and_after_the_command(siglip, demo):
    command = ["embed", "--model", demo, "--precision", "auto", "--text", "a"]
    assert "precision auto" in siglip(*command).stderr
    for quiet in (["--log-level", "warn", *command], [*command, "--log-level", "warn"]):
        result = siglip(*quiet)
        assert result.returncode == 0 and "precision auto" not in result.stderr, result.stderr


@pytest.mark.parametrize("arguments", [
    [], ["nonsense"], ["embed"], ["embed", "--model", "x", "--batch-size", "0"], ["embed", "--model", "x"],
    ["embed", "--model", "x", "--text", "a", "--shard", "0/3"], ["embed", "--model", "x", "--text", "a", "-o", "a.txt"],
    ["embed", "--model", "x", "--text", "a", "--precision", "fp99"], ["classify", "--model", "x", "a.png", "--labels", ""],
    ["embed", "--model", "x", "--text", "a", "--dtype", "1"], ["bench", "server", "--text", "a", "--seconds", "nan"],
    ["serve"], ["serve", "--model", "models/demo", "--cache-config", "redis"], ["inspect", "x", "--precision", "foo"],
    ["embed", "--model", "x", "--text", "a", "--isa", "foo"], ["embed", "--model", "x", "--text", "a", "--device", "foo"],
    ["bench", "engine", "--model", "x", "--seconds", "-5"], ["bench", "preprocess", "x", "--seconds", "nan"],
    ["bench", "server", "--text", "a", "--url", "http://localhost:8000", "--protocol", "http"],
    ["serve", "--model", "models/demo", "--dry-run", "--http-port="], ["serve", "--model", "models/demo", "--dry-run", "--allow-http", ""],
    ["bench", "server", "--text", "a", "--url", "localhost"], ["validate", "--data", "x", "--url", "http://localhost:8000"],
])
def test_wrong_command_line_is_exit_code_2(siglip, arguments):
    result = siglip(*arguments)
    assert result.returncode == 2, result.stderr


@pytest.mark.parametrize("arguments, message", [
    (["embed", "--modle", "M", "x.png"], 'unknown argument "--modle"'),
    (["frobnicate"], 'unknown argument "frobnicate"'),
    (["embed", "--model", "x", "--text", "a", "--dtype", "float64"], 'expected float32 or float16, got "float64"'),
    (["--log-level", "loud", "embed", "--model", "x"], 'got "loud"'),
    (["embed"], "error: --model is required"),
    (["serve", "--model", "x", "--http-port", "99999"], "error: --http-port: Value 99999 not in range 0 to 65535"),
    (["serve", "--model", "x", "--decode-workers", "none"],
     'error: --decode-workers: expected auto, off or a number from 1 to 1024, got "none"'),
    (["serve", "--model", "x", "--max-decode-bytes", "1k"],
     'error: --max-decode-bytes: expected a number of at least 1, got "1k"'),
    (["bench", "server", "--text", "a", "--rate", "inf"], 'error: --rate: expected a number of at least 0, got "inf"'),
])
def test_a_wrong_word_is_named(siglip, arguments, message):
    result = siglip(*arguments)
    assert result.returncode == 2 and message in result.stdout + result.stderr


def test_no_words_at_all_show_the_commands(siglip):
    result = siglip()
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith("error: ") and "classify" in result.stderr


def on_a_terminal(*arguments):
    """Exit code and what a terminal shows of both streams."""
    ours, theirs = pty.openpty()
    try:
        result = subprocess.run([str(SIGLIP), "--log-level", "warn", *map(str, arguments)], stdout=theirs, stderr=theirs,
                                timeout=300, check=False)
        return result.returncode, os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_rows_on_a_terminal_have_no_bar_among_them(demo):
    code, shown = on_a_terminal("embed", "--model", demo, "--text", "a")
    assert code == 0 and json.loads(shown)["text"] == "a", shown


@pytest.mark.parametrize("arguments, empty_lines", [(["-q"], 0), ([], 1)])
def test_a_failure_on_a_terminal_stands_below_the_bar(demo, tmp_path, arguments, empty_lines):
    (tmp_path / "broken.png").write_text("no picture")
    code, shown = on_a_terminal("embed", "--model", demo, tmp_path, "-o", tmp_path / "out.npy", *arguments)
    assert code == 1 and shown.partition("failed: ")[0].count("\n") == empty_lines, shown


def test_a_picture_on_standard_input_has_a_name(siglip, demo):
    result = siglip("embed", "--model", demo, "-")
    assert result.returncode == 1 and "/dev/stdin" in result.stderr, result.stderr


@pytest.mark.parametrize("command", [["serve", "--dry-run", "--decode-workers", "off"], ["embed", "--text", "a"]])
def test_resizing_on_a_gpu_needs_a_gpu(siglip, demo, command):
    result = siglip(command[0], "--model", demo, "--device", "cpu", "--gpu-resize", *command[1:])
    assert result.returncode == 1 and "gpu_resize: expected a GPU" in result.stderr, result.stderr


def test_words_are_taken_as_they_stand(siglip, demo, tmp_path):
    for name in ("[2020]", "2020", "-x.png"):
        path = tmp_path / name if name.endswith(".png") else tmp_path / name / "picture.png"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(EXAMPLES / "seven.png", path)

    def names(*arguments):
        result = subprocess.run([str(SIGLIP), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr
        return [[row.get("image"), row.get("text")] for row in map(json.loads, result.stdout.splitlines())]

    embed = ["embed", "--model", str(demo)]
    assert names("classify", "--model", str(demo), "--labels", "seven,star", "[2020]") == [["[2020]/picture.png", None]]
    assert names(*embed, "[2020]", "--", "-x.png") == [["[2020]/picture.png", None], ["-x.png", None]]
    assert names(*embed, "--text", "[a, b]", "--text=[c,d]", "--text=", "2020") == [
        ["2020/picture.png", None], [None, "[a, b]"], [None, "[c,d]"], [None, ""]]
    result = siglip("validate", "--model", demo, "--data", "data/demo", "--template", "[{text}, a photo]")
    assert result.returncode == 0 and result.stdout.count("[{text}, a photo]") >= 1, result.stderr
    result = siglip("serve", "--model", demo, "--dry-run", "--load-model", "a", "[b]")
    assert result.returncode == 2 and 'unknown argument "[b]"' in result.stderr, result.stderr


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(siglip, demo):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", str(taken.getsockname()[1])]
        result = siglip("serve", "--model", demo, *ports)
        assert result.returncode == 1 and "cannot listen on metrics port" in result.stderr, result.stderr
        assert "model_loaded" not in result.stdout + result.stderr
        plan = siglip("serve", "--model", demo, "--dry-run", *ports)  # which may be looked at beside the server
        assert plan.returncode == 0, plan.stderr


@pytest.mark.parametrize("arguments, code, message", [
    (["--api-key-file", "nofile"], 1, "nofile"),
    (["--api-key-file", "EMPTY"], 2, "expected a key"),
    (["--trace-config", "foo=bar"], 2, "'foo=bar'"),
    (["--metrics-config", "foo"], 2, "got 'foo'"),
    (["--http-use-ssl", "true"], 2, "http TLS"),
    (["--grpc-use-ssl", "true"], 2, "grpc TLS"),
    (["--http-restricted-api", "foo:k=v"], 2, "'foo'"),
    (["--http-header-forward-pattern", "("], 2, "pattern '('"),
    (["--image-url-allow", "http:///"], 2, "'http:///'"),
    (["--http-address", "nonsense"], 2, "got 'nonsense'"),
    (["--http-port", "9000", "--grpc-port", "9000"], 2, "got 9000 for both"),
    (["--allow-http", "false", "--allow-grpc", "false", "--allow-metrics", "false"], 2, "expected a door"),
])
def test_a_dry_run_refuses_what_serve_refuses(siglip, demo, tmp_path, arguments, code, message):
    (tmp_path / "empty").write_text("")
    arguments = [str(tmp_path / "empty") if argument == "EMPTY" else argument for argument in arguments]
    for more in (["--dry-run"], []):
        result = siglip("serve", "--model", demo, *arguments, *more)
        assert result.returncode == code and message in result.stderr, result.stdout + result.stderr
        assert "listen" not in result.stdout


def test_a_dry_run_tells_the_doors_that_open(siglip, demo):
    result = siglip("serve", "--model", demo, "--dry-run", "--http-address", "::1", "--grpc-address", "[::]",
                    "--allow-metrics", "false")
    assert result.stdout.splitlines()[-1] == "would listen on http [::1]:8000, grpc [::]:8001", result.stderr


@pytest.mark.parametrize("model, old, new, line", [
    ("siglip_text", "max_batch_size: 32", "max_batch_size: -1", "max_batch_size: 32"),
    ("embed_image", 'string_value: "embed_image"', 'string_value: "fly"', 'key: "step"'),
    ("siglip_vision_process", "TYPE_STRING dims: [ 1 ]", "TYPE_STRING dims: [ 2 ]", "TYPE_STRING"),
    ("siglip_vision", 'value: "PIXEL_VALUES"', 'value: "OTHER"', "ensemble_scheduling"),
    ("siglip_vision_model", 'name: "siglip_vision_model"', 'name: "other"', "name:"),
])
def test_an_error_of_a_configuration_has_file_and_line(siglip, demo, tmp_path, model, old, new, line):
    repository = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", repository)
    config = repository / model / "config.pbtxt"
    text = config.read_text()
    assert old in text
    number = next(i for i, content in enumerate(text.splitlines(), 1) if line in content)
    config.write_text(text.replace(old, new, 1))
    result = siglip("serve", "--model", demo, "--model-repository", repository, "--dry-run")
    assert result.returncode == 1 and f"{config}:{number}: " in result.stderr, result.stderr


@pytest.mark.parametrize("repository", [[], ["--model-repository", "model_repository"]])
def test_a_smaller_pass_than_the_deployments_batches_is_no_error(siglip, demo, repository):
    result = siglip("serve", "--model", demo, *repository, "--engine-batch-size", "3", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert len(re.findall("^siglip_(?:vision_model|text) .*max batch 32", result.stdout, re.MULTILINE)) == 2, result.stdout


def test_a_dry_run_tells_the_pixels_of_a_deployment(siglip, demo, tmp_path):
    repository = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", repository)
    config = repository / "siglip_vision_process/config.pbtxt"
    config.write_text(config.read_text().replace('string_value: "13"', 'string_value: "12"'))
    assert "string_value: \"12\"" in config.read_text()
    for workers in ("off", "1"):
        result = siglip("serve", "--model", demo, "--model-repository", repository, "--decode-workers", workers, "--dry-run")
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert len([line for line in lines if line.startswith("checkpoint")]) == 1, result.stdout
        (process,) = [line for line in lines if line.startswith("siglip_vision_process")]
        assert "; pixels of Pillow 12" in process and "Pillow 13" not in result.stdout


def test_names_neither_forge_lines_nor_move_cursors(siglip, demo, tmp_path):
    name = tmp_path / "a\nerror: all is well\x1b[2J\u009b2J.png"
    name.write_bytes(b"no picture")
    for command in (["embed", "--model", demo, EXAMPLES / "seven.png", name], ["search", "--model", demo, "INDEX", "--image", name],
                    ["classify", "--model", demo, "--labels", "a\x1b[2J", "--format", "table", EXAMPLES / "seven.png", name],
                    ["embed", "--model", demo, tmp_path / "no\n\x1b[2J"]):
        if "INDEX" in command:
            rows = tmp_path / "rows.npy"
            assert siglip("embed", "-q", "--model", demo, EXAMPLES / "seven.png", "-o", rows).returncode == 0
            command[command.index("INDEX")] = rows
        result = siglip(*command)
        assert result.returncode in (1, 3)
        for text in (result.stdout, result.stderr):
            assert "\x1b" not in text and "\u009b" not in text and not re.search("^error: all", text, re.MULTILINE), text
        assert "\\x0a" in result.stderr
    shutil.copy(EXAMPLES / "seven.png", name)
    table = siglip("classify", "--model", demo, "--labels", "a,b", "--format", "table", name).stdout
    assert len(table.splitlines()) == 3 and "\x1b" not in table
    assert siglip("embed", "-q", "--overwrite", "--model", demo, name, "-o", rows).returncode == 0
    table = siglip("search", "--model", demo, rows, "--text", "a", "--format", "table").stdout
    assert len(table.splitlines()) == 2 and "\x1b" not in table


def run_without(descriptors, *arguments):
    """The program with standard descriptors closed, as a shell's `<&- >&- 2>&-` does it: its exit code."""
    def close():
        for descriptor in descriptors:
            os.close(descriptor)

    return subprocess.run([str(SIGLIP), *map(str, arguments)], cwd=ROOT, preexec_fn=close, timeout=300, check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


@pytest.mark.parametrize("descriptors", [[2], [1, 2], [0, 1, 2], [0], [0, 2]])
def test_lines_for_closed_descriptors_end_in_no_file(siglip, demo, pictures, tmp_path, descriptors):
    broken = pictures / "broken.png"
    broken.write_bytes(b"no picture")
    whole, rows = tmp_path / "whole.npy", tmp_path / "rows.npy"
    command = ["embed", "-q", "--model", demo, pictures, broken, "-o"]
    assert siglip(*command, whole).returncode == 3
    assert run_without(descriptors, *command, rows) == 3
    for name in ("", ".names.txt", ".failures.jsonl"):
        assert pathlib.Path(f"{rows}{name}").read_bytes() == pathlib.Path(f"{whole}{name}").read_bytes(), name


@pytest.mark.parametrize("descriptors", [[2], [0, 1, 2]])
def test_a_cache_outlives_closed_descriptors(siglip, demo, pictures, tmp_path, descriptors):
    data = tmp_path / "data"
    for split in ("train", "valid"):
        for label in ("n00000001", "n00000002"):
            shutil.copytree(ROOT / "data/demo" / split / label, data / split / label)
    (data / "valid/n00000001/broken.JPEG").write_bytes(b"no picture")
    (data / "LOC_synset_mapping.txt").write_text("n00000001 one\nn00000002 two\n")
    command = ["validate", "-q", "--model", demo, "--data", data, "--cache"]
    assert siglip(*command, tmp_path / "whole").returncode == 3
    # What is lost on stdout is a failure.
    assert run_without(descriptors, *command, tmp_path / "cache") == (1 if 1 in descriptors else 3)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cache" / path.name).read_bytes() == path.read_bytes(), path


def test_a_server_runs_with_closed_descriptors(demo, tmp_path):
    log, picture = tmp_path / "log", EXAMPLES / "seven.png"
    with serving(demo) as urls:
        expected = embed_over_http(urls["http"], picture)

    def close():
        for descriptor in range(3):
            os.close(descriptor)

    process = subprocess.Popen([str(SIGLIP), "serve", "--model", str(demo), "--http-port", "0", "--grpc-port", "0", "--metrics-port",
                                "0", "--http-address", "127.0.0.1", "--log-file", str(log)], cwd=ROOT, preexec_fn=close)
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"listening http=(\S+:\d+)", log.read_text() if log.exists() else "")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        assert embed_over_http(found[1], picture) == expected
        # No socket and no file has a number that somebody prints to.
        assert {os.readlink(f"/proc/{process.pid}/fd/{descriptor}") for descriptor in range(3)} == {"/dev/null"}
    finally:
        process.terminate()
    assert process.wait(timeout=40) == 0


def embed_over_http(address, picture):
    """What embed_image answers to the raw picture: its head and bytes."""
    request = urllib.request.Request(f"http://{address}/v2/models/embed_image/infer", picture.read_bytes(), {
        "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def test_closed_descriptors_are_read_and_written_in_vain(demo):
    assert run_without([1], "--version") == 1
    assert run_without([1], "embed", "--model", demo, "--text", "a") == 1
    assert run_without([2], "--version") == 0
    assert run_without([0], "embed", "--model", demo, "--texts-from", "-") == 1


def test_what_cannot_be_printed_is_a_failure(siglip, demo):
    del siglip
    for arguments in (["--version"], ["embed", "--help"], ["inspect", demo]):
        with open("/dev/full", "w", encoding="utf-8") as full:
            assert run_to(full, *arguments) == 1, arguments


def run_to(stdout, *arguments):
    return subprocess.run([str(SIGLIP), *map(str, arguments)], cwd=ROOT, stdout=stdout, stderr=subprocess.DEVNULL,
                          timeout=60, check=False).returncode


@pytest.mark.skipif("dev" in os.environ.get("SIGLIP_BUILD_DIR", ""), reason="address spaces of sanitizers are larger")
@pytest.mark.parametrize("arguments", [["embed", "--threads", "1024"], ["embed", "--decode-threads", "1024"]])
def test_too_few_threads_are_an_error(siglip, demo, arguments):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2_500_000_000, 2_500_000_000))

    result = siglip(*arguments, "--model", demo, EXAMPLES / "seven.png", preexec_fn=limit)
    assert result.returncode == 1 and "threads" in result.stderr, result.stderr


def test_a_named_list_of_failures_is_written_whatever_it_is(siglip, demo, pictures, tmp_path):
    broken = pictures / "broken.png"
    good = pictures / "b.png"
    broken.write_bytes(b"no picture")
    listed = tmp_path / "failures"
    listed.write_text("of an older job")
    link = tmp_path / "link"
    link.symlink_to(listed)
    for command in (["embed", "--model", demo, "-o", tmp_path / "o.npy"], ["embed", "--model", demo],
                    ["classify", "--model", demo, "--labels", "seven,three"]):
        assert siglip(*command, good, "--failures", link).returncode == 0
        assert listed.read_text() == "" and link.is_symlink()
        assert siglip(*command, good, broken, "--failures", link).returncode == 3
        assert str(broken) in listed.read_text() and link.is_symlink()
        # What is no file stays what it is.
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        read = []
        reader = threading.Thread(target=lambda to=pipe, got=read: got.append(to.read_text()))
        reader.start()
        assert siglip(*command, good, broken, "--failures", pipe).returncode == 3
        reader.join()
        assert str(broken) in read[0] and pipe.is_fifo()
        pipe.unlink()


def test_outputs_never_replace_inputs(siglip, demo, pictures, tmp_path):
    texts = tmp_path / "t.jsonl"
    texts.write_text("a\nb\n")
    rows = tmp_path / "o.npy"
    assert siglip("embed", "--model", demo, pictures, "-o", rows).returncode == 0
    (tmp_path / "hard.jsonl").hardlink_to(texts)
    (tmp_path / "folder.npy").mkdir()
    for command, message in (
        (["embed", "--model", demo, "--texts-from", texts, "-o", texts], "would be lost"),
        (["embed", "--model", demo, "--texts-from", texts, "-o", tmp_path / "hard.jsonl"], "would be lost"),
        (["embed", "--model", demo, pictures / "b.png", "--failures", pictures / "b.png"], "would be lost"),
        (["embed", "--model", demo, pictures, "-o", rows, "--failures", rows], "are one file"),
        (["embed", "--model", demo, pictures, "-o", rows, "--failures", f"{rows}.meta.json"], "are one file"),
        (["embed", "--model", demo, pictures, "-o", tmp_path / "folder.npy"], "is a folder"),
        (["embed", "--model", demo, pictures, "--failures", "-"], "output -: expected a file"),
        (["classify", "--model", demo, "--labels", "a", pictures, "--failures", "-"], "output -: expected a file"),
        (["validate", "--model", demo, "--data", ROOT / "data/demo", "--json", "-"], "output -: expected a file"),
        (["index", rows, "-o", "-"], "output -: expected a file"),
        (["embed", "--model", demo, pictures, "-o", rows, "--failures", tmp_path / "no/f"], "there is no folder"),
        (["index", rows, "-o", f"{rows}.names.txt"], "would be lost"),
    ):
        result = siglip(*command)
        assert result.returncode == 2 and message in result.stderr, (command, result.stderr)
    assert texts.read_text() == "a\nb\n"
    assert (pictures / "b.png").read_bytes() == (EXAMPLES / "seven.png").read_bytes()


def test_lists_may_have_a_byte_order_mark_and_come_through_pipes(siglip, demo, tmp_path):
    (tmp_path / "texts").write_text("\ufeffseven\n", encoding="utf-8")
    result = siglip("embed", "--model", demo, "--texts-from", tmp_path / "texts")
    assert json.loads(result.stdout)["text"] == "seven"
    os.mkfifo(tmp_path / "labels")
    writer = threading.Thread(target=lambda: (tmp_path / "labels").write_text("\ufeffseven\nthree\n", encoding="utf-8"))
    writer.start()
    result = siglip("classify", "--model", demo, EXAMPLES / "seven.png", "--labels-file", tmp_path / "labels")
    writer.join()
    assert json.loads(result.stdout)["labels"][0]["label"] == "seven", result.stderr


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


def test_a_limit_of_pixels_moves_downwards(siglip, demo, tmp_path):
    picture = tmp_path / "p.png"
    Image.new("RGB", (40, 30)).save(picture)
    for command in (["embed"], ["classify", "--labels", "a,b"]):
        assert siglip(*command, "--model", demo, picture, "--max-pixels", 1200).returncode == 0
        result = siglip(*command, "--model", demo, picture, "--max-pixels", 1199)
        assert result.returncode == 1 and "too large" in result.stderr, result.stderr
        for wrong in (0, 178_956_971):
            assert siglip(*command, "--model", demo, picture, "--max-pixels", wrong).returncode == 2
    for pixels, workers, code in ((1200, "1", 200), (1199, "1", 400), (1199, "off", 400)):
        with serving(demo, "--max-pixels", str(pixels), "--decode-workers", workers) as urls:
            if code == 200:
                assert embed_over_http(urls["http"], picture)
                continue
            with pytest.raises(urllib.error.HTTPError) as refused:
                embed_over_http(urls["http"], picture)
            assert refused.value.code == code and b"too large" in refused.value.read()


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


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 813000000\n"


def test_a_clone_without_the_files_of_git_lfs_says_what_to_do(siglip, demo, tmp_path):
    clone = tmp_path / "clone"
    shutil.copytree(demo, clone)
    for name in ("model.safetensors", "spiece.model"):
        (clone / name).write_text(POINTER)
    result = siglip("inspect", clone)
    assert result.returncode == 1 and result.stdout.count("`git lfs pull`") == 2, result.stdout
    assert f"'{clone}/model.safetensors': a pointer of Git LFS" in result.stdout
    result = siglip("embed", "--model", clone, "--text", "a")
    assert result.returncode == 1 and "`git lfs pull`" in result.stderr
    # Inputs of a data set that was cloned so; each fails alone.
    for name in ("rows.npy", "picture.png", "shard.tar"):
        (tmp_path / name).write_text(POINTER)
    result = siglip("search", "--model", demo, tmp_path / "rows.npy", "--text", "a")
    assert result.returncode == 1 and "`git lfs pull`" in result.stderr
    result = siglip("embed", "-q", "--model", demo, tmp_path / "picture.png", tmp_path / "shard.tar", EXAMPLES / "seven.png")
    assert result.returncode == 3 and len(result.stdout.splitlines()) == 1
    assert result.stderr.count("`git lfs pull`") == 2, result.stderr


def test_the_cache_of_the_hub_is_taken_and_its_dangling_links_are_told(siglip, demo, tmp_path):
    model = tmp_path / "models--owner--siglip"
    snapshot = model / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    shutil.copytree(demo, model / "blobs")
    for blob in (model / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
    arguments = ["--precision", "fp32", "--text", "a", "-q"]
    result = siglip("embed", "--model", snapshot, *arguments)
    assert result.returncode == 0 and result.stdout == siglip("embed", "--model", demo, *arguments).stdout
    result = siglip("embed", "--model", model, *arguments)
    assert result.returncode == 1 and f"the checkpoint is in {snapshot}" in result.stderr
    for name in sorted(blob.name for blob in (model / "blobs").iterdir() if blob.suffix in {".json", ".model", ".safetensors"}):
        blob = model / "blobs" / name
        blob.rename(tmp_path / name)
        result = siglip("inspect", snapshot)
        assert result.returncode == 1 and f"{name}': it is a link to '../../blobs/{name}', which is not there" in result.stdout
        (tmp_path / name).rename(blob)
    result = siglip("embed", "--model", "google/siglip-base-patch16-224", *arguments)
    assert result.returncode == 1 and "hf download google/siglip-base-patch16-224 --local-dir" in result.stderr


def test_inspect_tells_every_setting_that_changes_pixels(siglip, demo, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(demo, folder)
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    for scale, told in ((1 / 255, "scale 1/255, mean"), (1 / 127.5, "scale 0.0078431372549019607, mean")):
        path.write_text(json.dumps(settings | {"rescale_factor": scale}))
        assert told in siglip("inspect", folder).stdout


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


def test_int8_needs_instructions_for_it(siglip, demo, tmp_path):
    result = siglip("embed", "--model", demo, "--text", "a", "--isa", "scalar", "--precision", "int8", "-o", tmp_path / "a.npy")
    assert result.returncode == 1
    assert "precision: expected fp32 or int16 on scalar, got int8, which needs VNNI or AMX" in result.stderr


def test_bench_measures_engine_and_preprocessing(siglip, demo):
    result = siglip("bench", "engine", "--model", demo, "--seconds", "0", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["best_s_per_item"] > 0
    result = siglip("bench", "preprocess", "--size", "384", "--seconds", "0", "--json", EXAMPLES / "seven.png")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["images_per_s"] > 0


def test_bench_preprocess_names_the_bad_file(siglip, tmp_path):
    shutil.copy(EXAMPLES / "seven.png", tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    result = siglip("bench", "preprocess", tmp_path, "--seconds", "0")
    assert result.returncode == 1 and f"{tmp_path / 'bad.png'}: " in result.stderr, result.stderr


def test_a_gpu_driver_that_does_not_work_is_told(siglip, demo, tmp_path):
    """The CUDA toolkit has a libcuda.so for linking, of which every call says that it is a stub."""
    nvcc = shutil.which("nvcc")
    stub = pathlib.Path(nvcc).resolve().parents[1] / "lib64/stubs/libcuda.so" if nvcc else None
    if stub is None or not stub.exists():
        pytest.skip("no CUDA toolkit on this machine")
    if "built without CUDA" in siglip("--version").stdout:
        pytest.skip("built without CUDA")
    (tmp_path / "libcuda.so.1").symlink_to(stub)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    embed = ["embed", "-q", "--model", demo, "data/demo/examples/seven.png", "-o", tmp_path / "out.npy"]
    done = siglip(*embed, env=environment)
    assert done.returncode == 0 and "device auto: the CPU is used" in done.stderr and "stub library" in done.stderr
    done = siglip(*embed, "--precision", "fp32", env=environment)
    assert done.returncode == 0 and "device auto" not in done.stderr
    done = siglip(*embed, "--device", "cuda", env=environment)
    assert done.returncode == 1 and "stub library" in done.stderr
