#!/usr/bin/env python3
"""Markdown of what bench/cpu.py measured. Standard library only.

    python3 bench/tables.py NAME.json            prints it
    python3 bench/tables.py NAME.json NAME.md    puts it between the page's marks of the result's name
"""

import argparse
import json
import pathlib
import re

FP32_PEERS = ["torch", "torch-compile", "onnxruntime", "openvino"]
# Where the processor multiplies bfloat16; elsewhere they are many times slower.
BF16_PEERS = ["torch-bf16", "openvino-bf16"]
INT8_PEERS = ["torch-int8", "onnxruntime-int8", "openvino-int8"]
# Of each precision: times as fast as the best of which peers.
GOALS = {"fp32": (1.35, "float32", FP32_PEERS), "int16": (1.8, "float32", FP32_PEERS), "int8": (1, "int8", INT8_PEERS),
         "bf16": (1, "bfloat16", BF16_PEERS)}


def table(head, rows):
    lines = ["| " + " | ".join(row) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def case_name(result):
    layers = f", {result['layers']} layers" if result["layers"] else ""
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    return f"{result['size']}{layers}, {result['tower']}, batch {result['batch']}, {threads}"


def fastest(rows, names):
    return min((row for row in rows if row["engine"] in names), key=lambda row: row["best_s"], default=None)


def engine_table(result):
    """Every engine of one case."""
    rows = []
    for row in result["rows"]:
        name = row["engine"] + (f" ({row['layout']})" if row.get("layout") else "")
        ratio = row["ratio_to_best_fp32_peer"]
        rows.append([name, f"{row['best_s']:.4g}", f"{row['median_s']:.4g}", f"{row['gflops']:.1f}",
                     f"{100 * row['of_peak']:.0f} %", f"{ratio:.2f}" if ratio else "", f"{row['cosine']:.7f}",
                     f"{row['resident_mb']}"])
    head = ["engine", "best s/item", "median", "GFLOP/s", "of peak", "ratio to best fp32 peer", "cosine to torch fp32",
            "resident MB"]
    text = (f"{case_name(result)}: {result['gflop_per_item']:.1f} GFLOP per item, multiply-add peak "
            f"{result['peak_gflops']:.0f} GFLOP/s, {result['rounds']} rounds\n\n{table(head, rows)}\n")
    for name, reason in result["left_out"].items():
        text += f"\nLeft out: {name}: {reason}\n"
    return text


def precisions_of(results):
    """Of siglip, in order of appearance."""
    names = [row["engine"].removeprefix("siglip ") for result in results for row in result["rows"]
             if row["engine"].startswith("siglip ")]
    return list(dict.fromkeys(names))


def summary_table(results):
    """A row for each case: the fastest peers, and each precision of siglip as a ratio to the fastest in float32."""
    precisions = precisions_of(results)
    others = [("int8", INT8_PEERS)]
    if any(fastest(result["rows"], BF16_PEERS) for result in results):
        others.insert(0, ("bf16", BF16_PEERS))
    head = ["case", "best fp32 peer, s/item"] + [f"best {name} peer, ratio" for name, _ in others]
    for precision in precisions:
        head += [f"siglip {precision}, ratio", "of peak"]
    rows = []
    for result in results:
        peer = fastest(result["rows"], FP32_PEERS)
        cells = [case_name(result), f"{peer['engine']} {peer['best_s']:.4g}" if peer else ""]
        for _, names in others:
            other = fastest(result["rows"], names)
            cells.append(f"{other['engine']} {other['ratio_to_best_fp32_peer']:.2f}" if other and peer else "")
        for precision in precisions:
            ours = fastest(result["rows"], [f"siglip {precision}"])
            cells += [f"{ours['ratio_to_best_fp32_peer']:.2f}" if ours and peer else "",
                      f"{100 * ours['of_peak']:.0f} %" if ours else ""]
        rows.append(cells)
    return table(head, rows)


def goal_lines(result):
    """(text, passed) for each precision of siglip that has a goal in this case."""
    lines = []
    for precision, (goal, kind, names) in GOALS.items():
        ours, peer = fastest(result["rows"], [f"siglip {precision}"]), fastest(result["rows"], names)
        if ours and peer:
            ratio = peer["best_s"] / ours["best_s"]
            verdict = "pass" if ratio >= goal else "FAIL"
            lines.append((f"siglip {precision}: {ratio:.2f} x the best {kind} peer, goal {goal}: {verdict}", ratio >= goal))
    return lines


def preprocess_table(preprocess):
    rows = []
    for row in preprocess["rows"]:
        cells = [row["image"]]
        for stage in ("decode", "resize", "normalize", "all"):
            pillow, ours = row["pillow_ms"][stage], row["siglip_ms"][stage]
            cells += [f"{pillow:.2f}", f"{ours:.2f}"]
        rows.append([*cells, f"{row['pillow_ms']['all'] / row['siglip_ms']['all']:.2f}"])
    head = ["file"]
    for stage in ("decode", "resize", "normalise", "all"):
        head += [f"{stage}: Pillow ms", "siglip ms"]
    return (f"{preprocess['size']} px, one core, best of {preprocess['rounds']} x 10 runs, in turns; the pixels are equal.\n\n"
            + table([*head, "ratio"], rows) + "\n")


def gemm_table(gemm):
    shapes = {}
    for rate in gemm["rates"]:
        shapes.setdefault((rate["m"], rate["n"], rate["k"]), {})[rate["format"], rate["threads"]] = rate["gflops"]
    columns = sorted({(rate["format"], rate["threads"]) for rate in gemm["rates"]})
    head = ["m x n x k"] + [f"{name}, {threads} thr., GFLOP/s" for name, threads in columns]
    rows = [[f"{m} x {n} x {k}", *(f"{found[column]:.0f}" if column in found else "" for column in columns)]
            for (m, n, k), found in shapes.items()]
    roofs = ", ".join(f"{threads} thr. {gemm['peak_gflops'][threads]:.0f} GFLOP/s and {gemm['read_gbs'][threads]:.1f} GB/s"
                      for threads in gemm["peak_gflops"])
    return f"Roofs: {roofs}.\n\n{table(head, rows)}\n"


def markdown(result):
    parts = [f"`{result['command']}`, {result['date']}: {result['machine']}; {result['versions']}. Seed {result['seed']}."]
    if result["engine"]:
        parts.append("### Engine\n" + summary_table(result["engine"]))
        parts += [engine_table(case).rstrip("\n") for case in result["engine"]]
    if result["preprocess"]:
        parts.append("### Preprocessing\n" + preprocess_table(result["preprocess"]).rstrip("\n"))
    if result["gemm"]:
        parts.append("### Matrix products\n" + gemm_table(result["gemm"]).rstrip("\n"))
    return "\n\n".join(parts) + "\n"


def with_result(page, name, text):
    """`page` with `text` between <!-- NAME --> and <!-- end of NAME -->."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"expected one {begin.strip()} and one {end} in the page")
    return re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: begin + text + end, page, flags=re.DOTALL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path)
    parser.add_argument("page", type=pathlib.Path, nargs="?")
    args = parser.parse_args()
    text = markdown(json.loads(args.result.read_text()))
    if args.page:
        args.page.write_text(with_result(args.page.read_text(), args.result.name, text))
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
