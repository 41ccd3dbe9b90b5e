#!/usr/bin/env bash
# Builds twice, from copies in folders of different names and without any cache, and compares the results byte for byte.
#   tools/reproducible.sh [TARGET [FILE]]     default: the program, src/cli/siglip
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-siglip} file=${2:-src/cli/siglip}
commit=$(git rev-parse --short=12 HEAD)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for copy in first "a second, longer"; do
  mkdir "$scratch/$copy"
  git ls-files -z --cached --others --exclude-standard | xargs -0 tar -c | tar -x -C "$scratch/$copy"
  echo "== Building $target in '$copy'"
  (
    cd "$scratch/$copy"
    export CCACHE_DISABLE=1
    # Parquet's library is found at run time by its folder, which is part of the program then.
    cmake --preset release -DSIGLIP_COMMIT="$commit" -DSIGLIP_ARROW_ROOT=OFF -DSIGLIP_BUILD_TESTS=OFF \
      -DSIGLIP_BUILD_BENCH=OFF >/dev/null
    cmake --build --preset release --target "$target" >build.log || { tail -50 build.log; exit 1; }
    sha256sum "build/release/$file"
  )
done
cmp "$scratch/first/build/release/$file" "$scratch/a second, longer/build/release/$file"
echo "== Equal"
