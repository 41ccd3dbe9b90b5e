"""The source package has all that building from it needs: its unpacked files configure as a wheel does."""

import subprocess
import sys
import tarfile
import tomllib

from conftest import ROOT


def test_the_source_package_configures(tmp_path):
    subprocess.run([sys.executable, "-c", f"import scikit_build_core.build as b; b.build_sdist({str(tmp_path)!r})"],
                   cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path)
    source = next(path for path in tmp_path.iterdir() if path.is_dir())
    settings = tomllib.loads((source / "pyproject.toml").read_text())["tool"]["scikit-build"]
    defines = {**settings["cmake"]["define"], "Python_EXECUTABLE": sys.executable}
    done = subprocess.run(["cmake", "-G", "Ninja", "-S", source, "-B", source / "build",
                           *(f"-D{name}={value}" for name, value in defines.items())],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
