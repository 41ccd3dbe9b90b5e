#!/usr/bin/env python3
"""Writes siglip(1) from what the program says: `siglip --help` and that of every command, and of those below it.

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


def body(help_text):
    """What a --help says; its headings are those of subsections."""
    lines = [".nf"]
    for line in help_text.splitlines():
        heading = re.fullmatch(r"([^ :][^:]*):", line)
        lines += [".fi", f'.SS "{heading[1]}"', ".nf"] if heading else [escaped(line) or ".sp"]
    return [*lines, ".fi"]


def commands(help_text):
    """Names of those that a --help lists."""
    listed = re.search(r"^Subcommands:\n(.+?)\n\n", help_text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^  ([a-z][a-z-]*) ", listed[1], re.MULTILINE) if listed else []


def sections(program, *command):
    """What a command says, and the commands below it."""
    text = ask(program, *command, "--help")
    parts = [f".SH SIGLIP {' '.join(command).upper()}", *body(text)]
    for name in commands(text):
        parts += sections(program, *command, name)
    return parts


def page(program):
    version = ask(program, "--version").split()[1]
    top = ask(program, "--help")
    found = commands(top)
    if not found:
        raise SystemExit(f"{program} --help: expected a list of subcommands, got\n{top}")
    parts = [f'.TH SIGLIP 1 "" "siglip {version}" "User Commands"', ".SH NAME",
             "siglip \\- SigLIP image and text embeddings, served as Triton does", ".SH SYNOPSIS",
             ".B siglip\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR ...", ".SH DESCRIPTION", *body(top)]
    for name in found:
        parts += sections(program, name)
    parts += [".SH FILES", ".TP", "/etc/default/siglip", "SIGLIP_ARGS of the systemd unit siglip.service."]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    pathlib.Path(sys.argv[2]).write_text(page(sys.argv[1]), encoding="utf-8")
