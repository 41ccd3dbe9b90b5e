"""Fenced blocks of Markdown pages, and how each language is run.

    ```sh                           run by bash -euo pipefail; exit code 0
    ```console                      `$ command`, then its output, compared; `...` stands for anything
    ```python                       run; the virtual environment follows from what it imports
    ```cpp                          checked by the compiler against include/
    ```pbtxt                        each line stands in that order in model_repository/PAGE/config.pbtxt
    ```text                         a picture or an output, no commands
    ```sh norun (needs a cluster)   any language, not run, for the reason given

The blocks of a page run in order in a folder of their own, which holds what the pages take for granted (scratch.py).
"""

import dataclasses
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[3]
INFO = re.compile(r"(?P<language>[a-z]+)(?: norun \((?P<reason>[^()]+)\))?")
LANGUAGES = {"sh", "console", "python", "cpp", "pbtxt", "text"}
COMMAND = re.compile(r"^\s*(\$ |siglip [a-z]|curl |perf_analyzer |python3? |pip |cmake |\./|tools/|import |docker )")
BLOCK_SECONDS = 120
# First that matches; a page's Python needs no torch.
ENVIRONMENTS = [("siglip", "python"), ("pyarrow", "arrow"), ("sklearn", "light"), ("PIL", "light"), ("", "clients")]


@dataclasses.dataclass
class Block:
    page: str  # relative to the root
    line: int  # of the opening fence
    language: str
    reason: str | None  # why it is not run
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


class BrokenPage(AssertionError):
    """A block does not do what the page says."""


def require(condition, block, message):
    if not condition:
        raise BrokenPage(f"{block}: {message}")


def read_blocks(path, root=ROOT):
    """Every fenced block. BrokenPage: an untagged block, an unknown language, a malformed tag, no end."""
    page = str(path.relative_to(root))
    blocks, current, lines, fence = [], None, [], ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        opening = re.match(r"\s*(`{3,}|~{3,})(.*)$", line)
        if current is None and opening:
            fence, info = opening.group(1), opening.group(2).strip()
            found = INFO.fullmatch(info)
            require(found and found["language"] in LANGUAGES, f"{page}:{number}",
                    f"expected one of {sorted(LANGUAGES)}, alone or with `norun (reason)`, got `{info}`")
            current, lines = Block(page, number, found["language"], found["reason"], ""), []
        elif current is not None and line.strip() == fence:
            current.text = "\n".join(lines) + "\n"
            require(current.language != "text" or not any(COMMAND.match(x) for x in lines), current,
                    "expected no commands in a `text` block")
            blocks.append(current)
            current = None
        elif current is not None:
            lines.append(line)
    require(current is None, f"{page}:{number}", "the last block does not end")
    return blocks


def run(block, command, folder, environment):
    """Output of a command that must end with 0."""
    try:
        done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=BLOCK_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BrokenPage(f"{block}: still running after {BLOCK_SECONDS} s: {error.output}") from error
    output = done.stdout.decode(errors="replace")
    require(done.returncode == 0, block, f"exit code {done.returncode} of\n{command[-1]}\n{output[-4000:]}")
    return output


def run_shell(block, text, folder, environment):
    return run(block, ["bash", "-euo", "pipefail", "-c", text], folder, environment)


def run_console(block, folder, environment):
    """Commands start with `$ `; what follows is their output."""
    steps = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            require(steps, block, "expected a line `$ command` first")
            steps[-1][1].append(line)
    for command, expected in steps:
        got = run_shell(block, command, folder, environment)
        strip = lambda text: "\n".join(line.rstrip() for line in text.strip("\n").splitlines())  # noqa: E731
        pattern = ".*".join(re.escape(part) for part in strip("\n".join(expected)).split("..."))
        require(re.fullmatch(pattern, strip(got), re.DOTALL), block,
                f"$ {command}\nexpected:\n{strip(chr(10).join(expected))}\ngot:\n{strip(got)}")


def run_python(block, folder, environment):
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)|, (\w+)(?=,|$)", block.text, re.MULTILINE))
    modules = {module for pair in imported for module in pair}
    venv = next(venv for module, venv in ENVIRONMENTS if not module or module in modules)
    python = ROOT / ".venv" / venv / "bin" / "python"
    require(python.exists(), block, f"expected {python.relative_to(ROOT)}: tools/setup/install.sh venv {venv}")
    run(block, [str(python), "-W", "ignore", "-c", block.text], folder, environment)


def check_cpp(block, folder, environment):
    """Includes stand in front, the rest in a function that is given `bytes`."""
    lines = block.text.splitlines()
    includes = [line for line in lines if line.startswith("#include")]
    body = [line for line in lines if not line.startswith("#include")]
    source = folder / "page.cc"
    source.write_text("\n".join([*includes, "void Page(std::string_view bytes) {", *body, "}", ""]))
    run(block, ["g++", "-std=c++20", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unused-variable",
                "-Wno-unused-but-set-variable", f"-I{ROOT}/include", str(source)], folder, environment)


def check_pbtxt(block):
    config = ROOT / "model_repository" / pathlib.Path(block.page).stem / "config.pbtxt"
    rest = iter(config.read_text().splitlines())
    for line in block.text.splitlines():
        require(any(line.strip() == found.strip() for found in rest), block,
                f"`{line}` is not in {config.relative_to(ROOT)}, or not in this order")


def run_block(block, folder, environment):
    """BrokenPage if the block does not do what the page says."""
    if block.reason or block.language == "text":
        return
    if block.language == "sh":
        run_shell(block, block.text, folder, environment)
    elif block.language == "console":
        run_console(block, folder, environment)
    elif block.language == "python":
        run_python(block, folder, environment)
    elif block.language == "cpp":
        check_cpp(block, folder, environment)
    else:
        check_pbtxt(block)


def at_ports(block, ports):
    """The block with the default ports replaced by those of the test's server."""
    text = block.text
    for default, address in ports.items():
        text = re.sub(rf"\blocalhost:{default}\b", address, text)
        # f"localhost:{port}" of a loop over both doors.
        text = re.sub(rf"\b{default}\b", address.rsplit(":", 1)[1], text)
    return dataclasses.replace(block, text=text)


def pages():
    others = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "bench/README.md"]
    return [ROOT / name for name in others] + sorted((ROOT / "docs").rglob("*.md"))
