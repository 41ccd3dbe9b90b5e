"""docs/performance/NAME.md shows what NAME.json holds, as bench/tables.py writes it."""

import importlib.util
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
SPEC = importlib.util.spec_from_file_location("bench_tables", ROOT / "bench/tables.py")
tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tables)
RESULTS = sorted((ROOT / "docs/performance").glob("*.json"))


def case(**changes):
    row = {"engine": "siglip fp32", "layout": "", "best_s": 0.5, "median_s": 0.6, "gflops": 20.0, "of_peak": 0.2,
           "ratio_to_best_fp32_peer": 1.4, "cosine": 1.0, "resident_mb": 10}
    peer = {**row, "engine": "onnxruntime", "layout": "opset 18", "best_s": 0.7, "ratio_to_best_fp32_peer": 1.0}
    slow = {**row, "engine": "siglip int16", "best_s": 0.6, "ratio_to_best_fp32_peer": 1.17}
    int8 = [{**row, "engine": name, "best_s": seconds} for name, seconds in (("siglip int8", 0.3), ("openvino-int8", 0.31))]
    return {"size": "so400m", "layers": None, "tower": "vision", "batch": 1, "threads": 2, "rounds": 5, "peak_gflops": 100.0,
            "gflop_per_item": 10.0, "rows": [row, slow, peer, *int8], "left_out": {}, **changes}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_page_shows_the_result(path):
    page = path.with_suffix(".md").read_text()
    assert tables.with_result(page, path.name, tables.markdown(json.loads(path.read_text()))) == page, (
        f"run: python3 bench/tables.py docs/performance/{path.name} docs/performance/{path.stem}.md")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_result_has_a_plot(path):
    assert path.with_name(f"{path.stem}-roofline.svg").exists()


def ratios_that_are_nowhere(summary, folder):
    """Of the table that has a row for each machine: ratios that the machine's page does not have."""
    rows = re.findall(r"^\| \[[^]]+\]\(([\w./-]+)\)(.*)\|$", summary, re.MULTILINE)
    return [(name, ratio) for name, cells in rows for ratio in re.findall(r"(\d\.\d\d)(?! s)", cells)
            if f"| {ratio} |" not in (folder / name).read_text()] if rows else ["no row"]


def test_the_summarys_ratios_are_the_pages():
    assert not ratios_that_are_nowhere((ROOT / "docs/performance.md").read_text(), ROOT / "docs")


def test_a_ratio_that_is_nowhere_is_told(tmp_path):
    (tmp_path / "a.md").write_text("| siglip | 1.70 |\n")
    assert ratios_that_are_nowhere("| [A](a.md) | ONNX Runtime, 4.52 s | **1.70** | 1.71 |\n", tmp_path) == [("a.md", "1.71")]
    assert ratios_that_are_nowhere("none", tmp_path)


def test_there_is_a_result():
    assert RESULTS


def test_goals_are_judged():
    assert [passed for _, passed in tables.goal_lines(case())] == [True, False, True]


def test_what_was_left_out_is_said():
    assert "torch: exit code 1: no" in tables.engine_table(case(left_out={"torch": "exit code 1: no"}))


def test_every_row_has_a_cell_for_each_column():
    without_peers = case(threads=1, rows=case()["rows"][:2])
    lines = tables.summary_table([case(), without_peers]).splitlines()
    assert len({line.count("|") for line in lines}) == 1


def test_a_page_without_marks_is_refused():
    with pytest.raises(SystemExit, match="zen3.json"):
        tables.with_result("# A page\n", "zen3.json", "text")
