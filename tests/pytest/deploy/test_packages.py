"""What the Debian package's scripts do to a service, in a root folder and with a systemd of their own."""

import os
import subprocess

import pytest

from conftest import ROOT

MADE = ("etc/default/siglip", "etc/systemd/system/multi-user.target.wants/siglip.service", "var/cache/siglip/packed",
        "var/cache/private/siglip/packed")
KEPT = ("etc/default/other", "var/cache/other/file")


@pytest.fixture(name="system")
def system_fixture(tmp_path):
    """run(script, *arguments): what systemd was told."""
    root, tools = tmp_path / "root", tmp_path / "tools"
    for name in (*MADE, *KEPT, "run/systemd/system/here"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    tools.mkdir()
    for name in ("systemctl", "deb-systemd-invoke"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*"\nexit "$SYSTEMD_SAYS"\n')
        (tools / name).chmod(0o755)

    def run(script, *arguments, says=0):
        environment = {"PATH": f"{tools}:{os.environ['PATH']}", "DPKG_ROOT": str(root), "SYSTEMD_SAYS": str(says)}
        return subprocess.run([ROOT / "packaging/debian" / script, *arguments], env=environment, capture_output=True, text=True,
                              check=True).stdout.splitlines()

    run.root = root
    return run


def test_an_upgrade_restarts_a_service_that_runs(system):
    restart = ["systemctl daemon-reload", "deb-systemd-invoke try-restart siglip.service"]
    assert system("prerm", "upgrade", "0.2.0") == []
    assert system("postrm", "upgrade", "0.2.0") == []
    assert system("postinst", "configure", "0.1.0") == restart
    assert system("postinst", "configure", "0.1.0", says=1) == restart  # its service does not start: installed all the same
    assert system("postinst", "configure", "") == restart[:1]


def test_removal_stops_the_service_and_purging_leaves_nothing(system):
    for says in (0, 1):
        assert system("prerm", "remove", says=says) == ["deb-systemd-invoke stop siglip.service"]
    assert system("postrm", "remove") == ["systemctl daemon-reload"]
    assert all((system.root / name).exists() for name in MADE)
    system("postrm", "purge")
    assert not any((system.root / name).exists() for name in MADE)
    assert all((system.root / name).exists() for name in KEPT)


def test_without_systemd_nobody_calls_it(system):
    (system.root / "run/systemd/system/here").unlink()
    (system.root / "run/systemd/system").rmdir()
    for call in (("postinst", "configure", "0.1.0"), ("prerm", "remove"), ("postrm", "remove"), ("postrm", "purge")):
        assert system(*call) == []
