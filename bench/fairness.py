#!/usr/bin/env python3
"""Images and texts at one server: does a flood of one starve the other? Says pass or fail; exit code 1 on fail.

    python3 bench/fairness.py --model DIR [--siglip PROGRAM] [--clients 60] IMAGES...

Standard library only. Floods are of --clients clients that wait for their answers, so that full batches always wait.
Rounds: images alone, texts alone, both floods at once, and a single text client beside the flood of images. Passes of
one checkpoint take turns, so
rates    with both, each kind has at least 0.9 of what it had alone, times its pass' share of a pass of each
waiting  a single text's p99 beside images is at most two passes of images and two of texts: one that runs when it comes,
         one that was there before it, its own and one before it
The time of a pass is the server's own: compute_infer over execution_count, of the round in which the kind was alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading

from server_process import Server, default_siglip

SHARE = 0.9
TEXTS = [f"a photo of {number} things" for number in range(64)]
MODELS = {"image": "siglip_vision_model", "text": "siglip_text"}


def load(args, server, kind, clients):
    contents = args.images if kind == "image" else [word for text in TEXTS for word in ("--text", text)]
    run = subprocess.run([args.siglip, "bench", "server", "--json", "--url", f"127.0.0.1:{server.grpc}", "--concurrency",
                          str(clients), "--seconds", str(args.seconds), *contents], capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"siglip bench server: {run.stderr}")
    return json.loads(run.stdout)


def pass_ms(before, after, kind):
    def change(name):
        return sum(after[key] - before[key] for key in after if key[0] == name and ("model", MODELS[kind]) in key[1])
    return change("nv_inference_compute_infer_duration_us") / change("nv_inference_exec_count") / 1e3


def together(args, server, clients):
    """What each kind's load saw, {kind: result}."""
    results = {}
    threads = [threading.Thread(target=lambda kind=kind, count=count: results.update({kind: load(args, server, kind, count)}))
               for kind, count in clients.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(results) < len(clients):
        sys.exit("a load failed")
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--siglip", default=str(default_siglip()))
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    rates = {(kind, state): [] for kind in MODELS for state in ("alone", "both")}
    passes, waits = {kind: [] for kind in MODELS}, []
    with Server(args.siglip, args.model) as server:
        for _ in range(args.rounds):
            for kind in MODELS:
                before = server.metrics()
                rates[kind, "alone"].append(load(args, server, kind, args.clients)[f"{kind}s_per_s"])
                passes[kind].append(pass_ms(before, server.metrics(), kind))
            for kind, result in together(args, server, dict.fromkeys(MODELS, args.clients)).items():
                rates[kind, "both"].append(result[f"{kind}s_per_s"])
            waits.append(together(args, server, {"image": args.clients, "text": 1})["text"])

    passes = {kind: statistics.median(values) for kind, values in passes.items()}
    good = True
    for kind in MODELS:
        alone, both = (statistics.median(rates[kind, state]) for state in ("alone", "both"))
        due = passes[kind] / sum(passes.values())
        fair = both / alone >= SHARE * due
        good &= fair
        print(f"{kind}s: {alone:.1f}/s alone, a pass {passes[kind]:.1f} ms; beside the other flood {both:.1f}/s, {both / alone:.1%} "
              f"where {due:.1%} are due  {'pass' if fair else 'FAIL'}")
    p50, p99 = (statistics.median(wait[name] for wait in waits) for name in ("p50_ms", "p99_ms"))
    bound = 2 * sum(passes.values())
    good &= p99 <= bound
    print(f"one text client beside the flood of images: p50 {p50:.1f} ms, p99 {p99:.1f} ms, at most {bound:.1f}  "
          f"{'pass' if p99 <= bound else 'FAIL'}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
