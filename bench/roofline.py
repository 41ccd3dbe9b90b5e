#!/usr/bin/env python3
"""The matrix products of bench/cpu.py under the machine's roofs, as SVG.

    .venv/bench/bin/python bench/roofline.py docs/performance/NAME.json docs/performance/NAME-roofline.svg

Needs requirements-bench.txt. Arithmetic intensity counts every operand once: A and C in float32, W as it is packed
(4 bytes, int16 and bf16 2, int8 1). Two roofs: multiply-adds on registers, reading of memory; one panel for each number of threads.
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
# The same file for the same numbers.
matplotlib.rcParams.update({"svg.hashsalt": "siglip", "svg.fonttype": "path", "font.size": 8})
import matplotlib.pyplot as plt  # noqa: E402

WEIGHT_BYTES = {"fp32": 4, "int16": 2, "int8": 1, "bf16": 2}
COLORS = {"fp32": "tab:blue", "int16": "tab:orange", "int8": "tab:green", "bf16": "tab:red"}
# A panel's x axis, FLOP per byte: from one row of A to past the largest shape.
INTENSITY = [0.25, 1024]


def intensity(rate):
    m, n, k = rate["m"], rate["n"], rate["k"]
    return 2 * m * n * k / (4 * m * (n + k) + WEIGHT_BYTES[rate["format"]] * n * k)


def draw_panel(axes, gemm, threads):
    peak, read = gemm["peak_gflops"][threads], gemm["read_gbs"][threads]
    ridge = peak / read
    axes.plot([INTENSITY[0], ridge, INTENSITY[1]], [INTENSITY[0] * read, peak, peak], color="black", linewidth=1)
    axes.plot([INTENSITY[0], ridge], [peak, peak], color="black", linewidth=0.5, linestyle="dotted")
    axes.annotate(f"float32 multiply-adds: {peak:.0f} GFLOP/s", (INTENSITY[0], peak), xytext=(4, 3),
                  textcoords="offset points")
    axes.annotate(f"memory: {read:.1f} GB/s", (1, read), xytext=(6, -6), textcoords="offset points")
    for name, color in COLORS.items():
        rates = [rate for rate in gemm["rates"] if rate["format"] == name and rate["threads"] == int(threads)]
        if not rates:
            continue
        axes.scatter([intensity(rate) for rate in rates], [rate["gflops"] for rate in rates], s=14, color=color, alpha=0.8,
                     linewidths=0, label=name)
    axes.set(xscale="log", yscale="log", xlim=INTENSITY, ylim=(INTENSITY[0] * read, max(3 * peak, *(rate["gflops"] for rate in gemm["rates"]))), xlabel="FLOP per byte",
             title=f"{threads} thread" + ("s" if threads != "1" else ""))
    axes.grid(True, which="both", linewidth=0.2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path)
    parser.add_argument("plot", type=pathlib.Path)
    args = parser.parse_args()
    gemm = json.loads(args.result.read_text())["gemm"]
    figure, panels = plt.subplots(1, len(gemm["peak_gflops"]), figsize=(9, 3.6), sharey=True, squeeze=False)
    for axes, threads in zip(panels[0], gemm["peak_gflops"]):
        draw_panel(axes, gemm, threads)
    panels[0][0].set_ylabel("GFLOP/s")
    panels[0][0].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(args.plot, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
