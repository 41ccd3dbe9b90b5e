#!/usr/bin/env bash
# Spark's recipe of docs/bulk-at-scale.md in Spark itself (spark_job.py). Needs the package that `./test --slow` installs.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v java >/dev/null || { echo "spark_job: SKIPPED, no Java"; exit 0; }
tools/setup/install.sh venv spark
export PYTHONPATH=$PWD/build/ci/python PYSPARK_PYTHON=$PWD/.venv/spark/bin/python
.venv/spark/bin/python tests/slow/spark_job.py
