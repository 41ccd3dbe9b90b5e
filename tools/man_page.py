#!/usr/bin/env python3
"""Writes siglip(1) from what the program says: `siglip --help` and `siglip COMMAND --help`.

    tools/man_page.py PROGRAM OUTPUT
"""

import pathlib
import re
import subprocess
import sys


def ask(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def escaped(text):
    """Literal text of roff."""
    return "\n".join("\\&" + line.replace("\\", "\\e").replace("-", "\\-") for line in text.splitlines())


def commands(help_text):
    """(name, first line of its description)."""
    listed = help_text.split("Subcommands:", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^  ([a-z][a-z-]*)\s+(.+)$", listed, re.MULTILINE)


def page(program):
    version = ask(program, "--version").split()[1]
    top = ask(program, "--help")
    found = commands(top)
    if not found:
        raise SystemExit(f"{program} --help: expected a list of subcommands, got\n{top}")
    parts = [f'.TH SIGLIP 1 "" "siglip {version}" "User Commands"', ".SH NAME",
             "siglip \\- SigLIP image and text embeddings, served as Triton does", ".SH SYNOPSIS",
             ".B siglip\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR ...", ".SH DESCRIPTION", ".nf", escaped(top), ".fi"]
    for name, _ in found:
        parts += [f".SH SIGLIP {name.upper()}", ".nf", escaped(ask(program, name, "--help")), ".fi"]
    parts += [".SH FILES", ".TP", "/etc/default/siglip", "SIGLIP_ARGS of the systemd unit siglip.service."]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    pathlib.Path(sys.argv[2]).write_text(page(sys.argv[1]), encoding="utf-8")
