#!/usr/bin/env python3
"""Machines, money and bytes for many images: the tables of docs/scaling.md, and yours.

    python3 bench/capacity.py machines | volumes      what stands in docs/scaling.md
    python3 bench/capacity.py yours --engine-s 2.56 --engine-cores 2 --decode-core-s 0.0016 --cores 32 --price 1.50

Rates are measured (docs/performance.md) or said to be assumed; prices are assumptions. Standard library only.
"""

import argparse
import dataclasses

IMAGES = {"10 M": 10e6, "1 G": 1e9, "100 G": 100e9}
DAYS = (1, 30)
# so400m in int16, all 27 layers, on two cores each: docs/performance/*.md.
SO400M_S, SO400M_CORES = {"Zen 3": 2.56, "Xeon with AMX": 0.8197}, 2
# base-224 with preprocessing of 500x375 JPEG: docs/performance.md, "Server" (the library's row).
BASE_CORE_S = 0.4106
# JPEG at 384 px, one core: docs/performance/zen3.md, "Preprocessing".
DECODE = {"500x375 JPEG": (0.00158, 0.1e6), "1024x768 JPEG": (0.00485, 0.3e6), "4000x3000 JPEG": (0.06439, 4e6)}
# Nominal operations of so400m (docs/performance/zen3.md), and what a GPU is assumed to do of its dense 16-bit peak.
SO400M_FLOP = 670.3e9
GPU_PEAK, GPU_SHARE = 989e12, 0.5


def rates(engine_s, engine_cores, decode_core_s, cores, image_bytes, network_gbit):
    """Images/s that each part of a machine could do alone. `engine_cores` of the CPU work `engine_s` on an image; 0: a
    GPU does, and all cores decode."""
    parts = {"network": network_gbit * 1e9 / 8 / image_bytes}
    if engine_cores:
        parts["cores"] = cores / (engine_s * engine_cores + decode_core_s)
    else:
        parts |= {"engine": 1 / engine_s, "decoding": cores / decode_core_s}
    return parts


@dataclasses.dataclass
class Machine:
    name: str
    images_per_s: float
    price_per_hour: float
    share: float = 0.8  # how full it is kept: the rest is for peaks and for machines that are lost

    def count(self, images, days):
        return max(1, -int(-images / (days * 86400) // (self.images_per_s * self.share)))

    def per_million(self):
        return 1e6 / (self.images_per_s * self.share) / 3600 * self.price_per_hour


def machines():
    decode, size = DECODE["500x375 JPEG"]
    cpus = {name: rates(seconds, SO400M_CORES, decode, 32, size, 25) for name, seconds in SO400M_S.items()}
    base = {"cores": 32 / BASE_CORE_S}
    gpu = rates(SO400M_FLOP / (GPU_PEAK * GPU_SHARE), 0, decode, 16, size, 25)
    return [Machine("32 cores (Zen 3), base-224 float32", min(base.values()), 1.50),
            *(Machine(f"32 cores ({name}), so400m int16", min(parts.values()), 1.50) for name, parts in cpus.items()),
            Machine("1 GPU and 16 cores, so400m (assumed)", min(gpu.values()), 3.00)]


def print_machines():
    print("| machine | images/s | price an hour | a million images | "
          + " | ".join(f"{name} in {days} d" for name in IMAGES for days in DAYS) + " |")
    print("|---" * (4 + len(IMAGES) * len(DAYS)) + "|")
    for machine in machines():
        counts = " | ".join(f"{machine.count(images, days):,}" for images in IMAGES.values() for days in DAYS)
        print(f"| {machine.name} | {machine.images_per_s:.3g} | {machine.price_per_hour:.2f} | "
              f"{machine.per_million():.2f} | {counts} |")


def print_volumes():
    """What one GPU's machine meets, and the bytes of a corpus."""
    gpu_rate = GPU_PEAK * GPU_SHARE / SO400M_FLOP
    print(f"| pictures | bytes | cores that decode for {gpu_rate:.0f} images/s | Gbit/s | "
          + " | ".join(f"{name}: TB to read" for name in IMAGES) + " |")
    print("|---" * (4 + len(IMAGES)) + "|")
    for name, (core_s, size) in DECODE.items():
        print(f"| {name} | {size / 1e6:g} MB | {gpu_rate * core_s:.1f} | {gpu_rate * size * 8 / 1e9:.2f} | "
              + " | ".join(f"{images * size / 1e12:,.0f}" for images in IMAGES.values()) + " |")
    print()
    print("| embeddings [1152] | " + " | ".join(f"{name}: TB" for name in IMAGES) + " |")
    print("|---" * (1 + len(IMAGES)) + "|")
    for name, width in (("float32", 4), ("float16", 2)):
        print(f"| {name} | " + " | ".join(f"{images * 1152 * width / 1e12:,.3g}" for images in IMAGES.values()) + " |")


def print_yours(args):
    parts = rates(args.engine_s, args.engine_cores, args.decode_core_s, args.cores, args.image_bytes, args.network_gbit)
    slowest = min(parts, key=parts.get)
    machine = Machine("yours", parts[slowest], args.price, args.share)
    for name, rate in sorted(parts.items(), key=lambda item: item[1]):
        print(f"{name}: {rate:.4g} images/s{' <- the bottleneck' if name == slowest else ''}")
    print(f"a million images: {machine.per_million():.2f}, at {args.share:.0%} of {machine.images_per_s:.4g} images/s")
    for name, images in IMAGES.items():
        print(f"{name} images: {', '.join(f'{machine.count(images, days):,} machines in {days} d' for days in DAYS)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("machines").set_defaults(run=lambda args: print_machines())
    commands.add_parser("volumes").set_defaults(run=lambda args: print_volumes())
    yours = commands.add_parser("yours")
    yours.add_argument("--engine-s", type=float, required=True, help="of an image, in full batches")
    yours.add_argument("--engine-cores", type=int, default=0, help="that took those seconds; 0: a GPU")
    yours.add_argument("--decode-core-s", type=float, required=True)
    yours.add_argument("--cores", type=int, required=True)
    yours.add_argument("--image-bytes", type=float, default=1e5)
    yours.add_argument("--network-gbit", type=float, default=10)
    yours.add_argument("--price", type=float, required=True, help="of the machine for an hour")
    yours.add_argument("--share", type=float, default=0.8)
    yours.set_defaults(run=print_yours)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
