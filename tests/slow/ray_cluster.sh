#!/usr/bin/env bash
# The Ray job on a local cluster that loses a node (ray_cluster.py). Needs the package that `./test --slow` installs.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools/setup/install.sh venv ray
# Without the last, a busy machine starves the workers, to which Ray gives a low priority.
export PYTHONPATH=$PWD/build/ci/python RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 RAY_worker_niceness=0
.venv/ray/bin/python tests/slow/ray_cluster.py "$@"
