"""kill -9 of a bulk job at chosen places of its progress: what is killed when does not depend on the machine's speed."""

import os
import pathlib
import subprocess
import time

POLL_SECONDS = 0.002
KILLS = 6


def stamp(path):
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def run_with_kills(command, output, choose, cwd):
    """Runs `command` until it ends, killed KILLS times or less: after 0 to 2 commits of each run and a few milliseconds.

    Returns exit code and number of kills.
    """
    manifest = pathlib.Path(f"{output}.parts/manifest.json")
    kills = 0
    while True:
        commits, seen = choose.randint(0, 2), stamp(manifest)
        process = subprocess.Popen(list(map(str, command)), cwd=cwd, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        while kills < KILLS and commits > 0 and process.poll() is None:
            time.sleep(POLL_SECONDS)
            now = stamp(manifest)
            commits, seen = commits - (now != seen), now
        if kills == KILLS or process.poll() is not None:
            return process.wait(), kills
        time.sleep(choose.uniform(0, 0.02))
        process.kill()
        process.wait()
        kills += 1
