#!/usr/bin/env python3
"""Checks that includes go down the staircase only: folder X may include only what ALLOWED says.

    tools/check_layers.py [ROOT]     exit code 1 and one line per wrong arrow
    tools/check_layers.py --self-test

The table is that of ARCHITECTURE.md. Third-party kinds that belong to one place only are checked too:
socket types to server (and cli's load generator), protobuf to protocol, server and cli.
"""

import pathlib
import re
import sys
import tempfile

ALLOWED = {
    "base": set(),
    "checkpoint": {"base"},
    "image": {"base"},
    "text": {"base", "checkpoint"},
    "kernels": {"base"},
    "engine": {"base", "checkpoint", "kernels"},
    "api": {"base", "checkpoint", "image", "text", "engine", "siglip"},
    "serving": {"base"},
    "workers": {"base", "image"},
    "deployments": {"base", "image", "api", "serving", "siglip", "workers"},
    "protocol": {"base", "serving"},
    "server": {"base", "protocol", "serving"},
    "eval": {"base", "kernels", "text"},
    "bulk": {"base"},
    "triton": {"base", "serving", "deployments", "api", "siglip"},
    "cli": {"base", "bulk", "checkpoint", "image", "text", "kernels", "engine", "api", "siglip",
            "serving", "deployments", "protocol", "server", "eval", "workers"},
}
# Pattern of a third-party include -> folders that may have it.
CONFINED = {
    re.compile(r"boost/(asio|beast)"): {"server", "cli"},
    re.compile(r"(grpcpp/|grpc/|google/protobuf/|\.pb\.h)"): {"protocol", "server", "cli"},
    re.compile(r"sentencepiece"): {"text"},
    re.compile(r"(jpeglib|png\.h|tiffio|webp/|gif_lib|avif/|openjpeg|lcms2)"): {"image"},
    re.compile(r"prometheus/"): {"server"},
    re.compile(r"^hnswlib/"): {"eval"},
    re.compile(r"^curl/"): {"server"},
    re.compile(r"^(cuda|cublas|cudnn)"): {"kernels", "engine"},
    re.compile(r"^(arrow/|parquet/|archive\.h|archive_entry\.h)"): {"bulk"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)


def wrong_arrows(root: pathlib.Path) -> list[str]:
    """One line per include that its folder may not have."""
    errors = []
    for path in sorted([*(root / "src").rglob("*"), *(root / "triton").rglob("*")]):
        if path.suffix not in {".h", ".cc", ".cu", ".inc"}:
            continue
        parts = path.relative_to(root).parts
        folder = parts[1] if parts[0] == "src" else parts[0]
        if folder not in ALLOWED:
            errors.append(f"{path.relative_to(root)}: folder {folder} is not in the table")
            continue
        for match in INCLUDE.finditer(path.read_text(encoding="utf-8")):
            target = match.group(2)
            for pattern, folders in CONFINED.items():
                if pattern.search(target) and folder not in folders:
                    errors.append(f"{path.relative_to(root)}: {target} belongs to {sorted(folders)}")
            first = target.split("/")[0]
            known = first in ALLOWED or (first == "siglip" and match.group(1) == '"')
            if known and first != folder and first not in ALLOWED[folder]:
                errors.append(f"{path.relative_to(root)}: {folder} may not include {target}")
    return errors


def self_test() -> None:
    """A wrong arrow, a confined header and an unknown folder are each found."""
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        for folder, text in {
            "image": '#include "base/log.h"\n#include "serving/request.h"\n',
            "serving": "#include <boost/asio.hpp>\n",
            "attic": "",
            "../triton": '#include "protocol/model_config.h"\n',
        }.items():
            (root / "src" / folder).mkdir(parents=True)
            (root / "src" / folder / "x.cc").write_text(text, encoding="utf-8")
        errors = wrong_arrows(root)
        assert len(errors) == 4, errors


def main() -> int:
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    errors = wrong_arrows(root)
    print("\n".join(errors) if errors else "layers: every include goes down the staircase")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
