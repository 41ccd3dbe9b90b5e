#!/usr/bin/env bash
# Installs what siglip.cpp needs: Debian packages that are missing, and Python environments in .venv/.
#   tools/setup/install.sh debian                 packages of debian-packages.txt
#   tools/setup/install.sh fuzz                   the compiler of the fuzz preset
#   tools/setup/install.sh venv NAME              .venv/NAME from requirements-NAME.txt
# Does nothing when everything is there already. Needs root or sudo only to install Debian packages.
set -euo pipefail
cd "$(dirname "$0")/../.."

install_debian() {  # install_debian PACKAGES...
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [[ ${#missing[@]} -eq 0 ]] && return
  local as_root=()
  if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null || {
      echo "error: these Debian packages are missing and neither root nor sudo is at hand: ${missing[*]}" >&2
      exit 1
    }
    as_root=(sudo)
  fi
  echo "Installing Debian packages: ${missing[*]}"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

install_venv() {
  local name=$1 requirements=tools/setup/requirements-$1.txt stamp=.venv/$1/.installed
  [[ -f $requirements ]] || { echo "error: no $requirements" >&2; exit 1; }
  cmp -s "$requirements" "$stamp" && return
  echo "Making the Python environment .venv/$name"
  rm -rf ".venv/$name"
  python3 -m venv ".venv/$name"
  local flags=(--quiet --disable-pip-version-check --no-cache-dir)
  [[ $name == perf ]] && flags+=(--no-deps)
  ".venv/$name/bin/pip" install "${flags[@]}" -r "$requirements"
  cp "$requirements" "$stamp"
}

case "${1:-}" in
  debian)
    mapfile -t packages < <(grep -v '^#' tools/setup/debian-packages.txt)
    install_debian "${packages[@]}"
    ;;
  fuzz) install_debian clang-14 libclang-rt-14-dev ;;
  venv) install_venv "${2:?name of the environment}" ;;
  *) sed -n '2,6p' "$0"; exit 2 ;;
esac
