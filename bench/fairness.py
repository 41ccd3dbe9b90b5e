#!/usr/bin/env python3
"""Images and texts at one server: does a flood of one starve the other? Says pass or fail; exit code 1 on fail.

    python3 bench/fairness.py IMAGES... --model DIR [--siglip PROGRAM] [--clients 60]

Standard library only. Floods are of --clients clients that wait for their answers, so that full batches always wait.
Rounds: images alone, texts alone, both floods at once, and a single text client beside the flood of images. Texts and images
of one checkpoint take turns in the engine, pass by pass (about 1,024 rows: 6 images of 196 patches, 16 texts of 64), so
shares   with both, each kind keeps at least a quarter of the rate that it had alone, and nothing is lost: both shares
         together are at least 0.95
waiting  a single text's p99 beside images is at most half of the time of one batch of images, however many wait. The time of
         a batch is the server's own mean, compute_infer over requests, with images alone.
"""

import argparse
import statistics
import sys
import threading

from serve import run_json
from server_process import Server, default_siglip

LEAST_SHARE, BOTH_SHARES, BATCH_SHARE = 0.25, 0.95, 0.5
TEXTS = [f"a photo of {number} things" for number in range(64)]
KINDS = ("image", "text")


def load(args, server, kind, clients):
    contents = args.images if kind == "image" else [word for text in TEXTS for word in ("--text", text)]
    return run_json([args.siglip, "bench", "server", "--json", "--url", f"127.0.0.1:{server.grpc}", "--concurrency",
                     str(clients), "--seconds", str(args.seconds), *contents])


def batch_ms(before, after):
    def change(name):
        return sum(after[key] - before[key] for key in after if key[0] == name and ("model", "siglip_vision_model") in key[1])
    return change("nv_inference_compute_infer_duration_us") / change("nv_inference_request_success") / 1e3


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

    rates = {(kind, state): [] for kind in KINDS for state in ("alone", "both")}
    batches, waits = [], []
    with Server(args.siglip, args.model) as server:
        for _ in range(args.rounds):
            before = server.metrics()
            rates["image", "alone"].append(load(args, server, "image", args.clients)["images_per_s"])
            batches.append(batch_ms(before, server.metrics()))
            rates["text", "alone"].append(load(args, server, "text", args.clients)["texts_per_s"])
            for kind, result in together(args, server, dict.fromkeys(KINDS, args.clients)).items():
                rates[kind, "both"].append(result[f"{kind}s_per_s"])
            waits.append(together(args, server, {"image": args.clients, "text": 1})["text"])

    shares = {}
    for kind in KINDS:
        alone, both = (statistics.median(rates[kind, state]) for state in ("alone", "both"))
        shares[kind] = both / alone
        print(f"{kind}s: {alone:.1f}/s alone, {both:.1f}/s beside the other flood: {both / alone:.1%}")
    p50, p99 = (statistics.median(wait[name] for wait in waits) for name in ("p50_ms", "p99_ms"))
    batch = statistics.median(batches)
    print(f"one text client beside the flood of images: p50 {p50:.1f} ms, p99 {p99:.1f} ms; a batch of images takes {batch:.1f}")
    checks = {"each keeps its share": min(shares.values()) >= LEAST_SHARE,
              "nothing is lost": sum(shares.values()) >= BOTH_SHARES,
              "a text does not wait for batches": p99 <= BATCH_SHARE * batch}
    for check, good in checks.items():
        print(f"{'pass' if good else 'FAIL'}  {check}")
    sys.exit(not all(checks.values()))


if __name__ == "__main__":
    main()
