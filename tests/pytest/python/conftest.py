"""The package that was built, for every file here: SIGLIP_BUILD_DIR names a build whose python/ folder has the wheel."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / os.environ.get("SIGLIP_BUILD_DIR", "build/ci") / "python"))
