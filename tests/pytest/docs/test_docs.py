"""Every command of README.md, CONTRIBUTING.md and docs/ is run, or says why not."""

import os
import re
import subprocess

import pytest

import pages
import scratch

BLOCKS = {page: pages.read_blocks(page) for page in pages.pages()}
SIGLIP = pages.ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "src/cli/siglip"
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
COMMANDS = ["", "serve", "embed", "classify", "validate", "sample-imagenet", "search", "index", "inspect", "bench engine",
            "bench server", "bench preprocess", "bench knn", "bench search"]


def name_of(page):
    return str(page.relative_to(pages.ROOT))


@pytest.mark.parametrize("page", [p for p, blocks in BLOCKS.items() if any(not b.reason for b in blocks)], ids=name_of)
def test_page(page, ports, tmp_path):
    environment = scratch.build(tmp_path, SIGLIP)
    for block in BLOCKS[page]:
        pages.run_block(pages.at_ports(block, ports), tmp_path, environment)


@pytest.mark.parametrize("block", [b for blocks in BLOCKS.values() for b in blocks if b.reason], ids=str)
def test_not_run(block):
    pytest.skip(f"{block}: norun: {block.reason}")


def prose(page):
    """Without the fenced blocks."""
    return re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Of the headings, as GitHub makes them."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*?)\s*$", prose(page), re.MULTILINE)}


def lost_links(page):
    lost = []
    for target, anchor in LINK.findall(prose(page)):
        there = (page.parent / target) if target else page
        if "://" not in target and not (there.exists() and (not anchor or anchor in anchors(there))):
            lost.append(f"{target}#{anchor}")
    return lost


@pytest.mark.parametrize("page", BLOCKS, ids=name_of)
def test_links_lead_somewhere(page):
    assert not lost_links(page)


def test_a_lost_link_is_told(tmp_path):
    page = tmp_path / "a.md"
    page.write_text("# A `b`: c\n[1](a.md) [2](#a-b-c) [3](a.md#a-b-c) [4](b.md) [5](#d) [6](a.md#d) [7](http://x/y#z)\n")
    assert lost_links(page) == ["b.md#", "#d", "a.md#d"]


def help_of(command):
    return subprocess.run([SIGLIP, *command.split(), "--help"], check=True, capture_output=True, text=True).stdout


def options(command):
    """What `siglip COMMAND --help` lists, without Triton's options that have no effect."""
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_of(command).partition("no effect here:")[0]))
    assert {"--help", "--version"} <= found
    return found


def undocumented(command, text):
    return sorted(option for option in options(command) if not re.search(rf"(?<![\w-]){option}(?![\w-])", text))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_on_a_page(command):
    assert not undocumented(command, "\n".join(page.read_text(encoding="utf-8") for page in BLOCKS))


def test_an_option_on_no_page_is_told():
    lacking = undocumented("index", "--output --ef --ef-construction-x --help --version --log-level --threads --quiet")
    assert lacking == ["--ef-construction", "--links"]


def unexplained(text):
    """Options that a --help lists without a word on what they do. Words begin in column 30, of the next line if need be;
    limits and defaults, in brackets, are none."""
    entries = re.split(r"^  (?=-)", text, flags=re.MULTILINE)[1:]
    return [entry.split()[0] for entry in entries if not re.search(r"^.{27} [^\s[]|^ {30}[^\s[]", entry, re.MULTILINE)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command):
    assert not unexplained(help_of(command))


def test_an_option_without_a_word_is_told():
    assert unexplained("""
  --http-port N               0 = any free port [default: 8000]
  --reuse-http-port true|false
                              [default: false]
  --http-thread-count N       [1 to 1024; default: 8]
  --http-max-input-size true|false
                              Bytes of a request's body
""") == ["--reuse-http-port", "--http-thread-count"]


def names_of_tests():
    """Suite.Test of googletest, and pytest's functions."""
    native = {f"{suite}.{test}" for path in (pages.ROOT / "src").rglob("*_test.cc")
              for suite, test in re.findall(r"^TEST(?:_[FP])?\(\s*(\w+),\s*(\w+)\)", path.read_text(), re.MULTILINE)}
    python = {name for path in (pages.ROOT / "tests/pytest").rglob("test_*.py")
              for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}
    assert len(native) > 500 and len(python) > 100
    return native | python


def lost_tests(table):
    """What the last column of a table cites and is not there. `Suite.Begin...` and `Suite.Begin*`: any that begin so.
    `Suite`: any of it."""
    tests, lost = names_of_tests(), []
    for row in re.findall(r"^\|(?! ?-).*\|$", table, re.MULTILINE):
        for cited in re.findall(r"`([^`]+)`", row.split("|")[-2]):
            if "/" in cited:
                found = list(pages.ROOT.glob(cited))
            else:
                begin = re.sub(r"(\.\.\.|\*)$", "", cited)
                found = [test for test in tests if test == cited or test.startswith(f"{cited}.")
                         or (begin != cited and test.startswith(begin))]
            lost += [] if found else [cited]
    return lost


@pytest.mark.parametrize("page", ["protocol", "reliability"])
def test_the_tests_of_a_page_are_there(page):
    text = (pages.ROOT / f"docs/{page}.md").read_text()
    assert text.count("`") > 200
    assert not lost_tests(text)


def incomplete_rows(page):
    """Rows that do not say what Triton does, what we do, and which test proves it; of a gap, why."""
    lacking = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        for row in re.findall(r"^\|(?!-).*\|$", section, re.MULTILINE):
            cells = [cell.strip() for cell in row[1:-1].split(" |")]
            is_gap = section.startswith("Not there")
            lacking += [row] if len(cells) != 4 or not all(cells[:3]) or bool(cells[3]) == is_gap else []
    return [row for row in lacking if row != "| feature | Triton | ours, and why | test |"]


def test_the_protocols_rows_are_whole():
    assert not incomplete_rows((pages.ROOT / "docs/protocol.md").read_text())


@pytest.mark.parametrize("row", ["| a | yes | the same | |", "| a | | the same | T |", "| a | yes | T |"])
def test_an_incomplete_row_is_told(row):
    assert incomplete_rows(f"## HTTP\n{row}\n## Not there\n| b | yes | none: why | |\n") == [row]


@pytest.mark.parametrize(
    "cited", ["GrpcTest.NoSuchTest", "NoSuchSuite", "NoSuchSuite.*", "GrpcTest.NoSuch...", "test_nothing", "tests/no_file.py"])
def test_a_test_that_is_not_there_is_told(cited):
    row = f"| a `b` | S `{cited}`, `GrpcTest.*`, T `test_health`, `tests/pytest/ui` |\n"
    assert lost_tests("| feature | test |\n|---|---|\n" + row) == [cited]


BROKEN = {
    "a command that fails": "```sh\nsiglip embed --model nowhere pictures/\n```",
    "the first command of two": "```sh\nfalse\ntrue\n```",
    "a pipe": "```sh\nfalse | cat\n```",
    "an option that is not there": "```sh\nsiglip serve --model DIR --no-such-option\n```",
    "another output": "```console\n$ echo one\ntwo\n```",
    "output without a command": "```console\none\n```",
    "a file that an earlier block did not make": "```sh\nrm -f a\n```\n```python\nopen('a')\n```",
    "Python": "```python\nimport numpy\nassert numpy.zeros(3).sum() == 1\n```",
    "C++": '```cpp\n#include "siglip/siglip.h"\nauto model = siglip::Model::NoSuchFunction("models/demo");\n```',
    "a field that the configuration does not have": "```pbtxt\nmax_batch_size: 61\n```",
    "an untagged block": "```\nsiglip --help\n```",
    "an unknown language": "```bash\ntrue\n```",
    "norun without a reason": "```sh norun\ntrue\n```",
    "a command in a text block": "```text\nsiglip serve --model DIR\n```",
    "no end": "```sh\ntrue\n",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_page_fails(case, tmp_path):
    page = tmp_path / "embed_image.md"
    page.write_text(BROKEN[case])
    folder = tmp_path / "scratch"
    folder.mkdir()
    environment = scratch.build(folder, SIGLIP)
    with pytest.raises(pages.BrokenPage, match="embed_image.md:[1-9]"):
        for block in pages.read_blocks(page, tmp_path):
            pages.run_block(block, folder, environment)


def test_a_whole_page_passes(tmp_path):
    """What test_a_broken_page_fails demands is not the fault of its folder."""
    page = tmp_path / "embed_image.md"
    page.write_text("```sh\nsiglip embed -q --model DIR pictures/ -o a.npy\n```\n```console\n$ echo one 2\none ...\n```\n"
                    "```python\nimport numpy\nassert numpy.load('a.npy').shape == (3, 128)\n```\n"
                    '```cpp\n#include "siglip/siglip.h"\nauto model = siglip::Model::Open("models/demo");\n```\n'
                    "```pbtxt\nmax_batch_size: 60\n```\n```sh norun (fails)\nfalse\n```\n```text\none\n```\n")
    folder = tmp_path / "scratch"
    folder.mkdir()
    environment = scratch.build(folder, SIGLIP)
    for block in pages.read_blocks(page, tmp_path):
        pages.run_block(block, folder, environment)
