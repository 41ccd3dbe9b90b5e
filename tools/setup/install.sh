#!/usr/bin/env bash
# Installs what siglip.cpp needs: Debian packages that are missing, and Python environments in .venv/.
#   tools/setup/install.sh debian                 packages of debian-packages.txt
#   tools/setup/install.sh clang                  the compiler of the preset fuzz
#   tools/setup/install.sh arm64                  cross compiler and qemu; build/sysroot-arm64 from arm64-packages.txt
#   tools/setup/install.sh ui                     the browser that the page is tested in
#   tools/setup/install.sh slow                   container builder, bare roots and Java, for tests/slow
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

# Apt resolves and fetches the packages in a state folder of its own, so this needs no root, and the system's packages
# stay as they are (multi-arch -dev packages would conflict with them).
make_arm64_sysroot() {
  local list=tools/setup/arm64-packages.txt root=$PWD/build/sysroot-arm64 packages package
  cmp -s "$list" "$root/.installed" && return
  echo "Making build/sysroot-arm64"
  rm -rf "$root"
  local state=$root/.apt
  mkdir -p "$state"/{lists,archives}/partial
  : >"$state/status"
  local apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$state"
    -o Dir::State::status="$state/status" -o Dir::Cache="$state" -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
  mapfile -t packages < <(grep -v '^#' "$list")
  "${apt[@]}" update
  "${apt[@]}" install -y --no-install-recommends --download-only "${packages[@]}" >/dev/null
  for package in "$state"/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
  rm -rf "$state"
  local link
  find "$root" -type l -lname '/*' | while read -r link; do  # they would lead out of the sysroot
    ln -snf "$(realpath -m --relative-to="$(dirname "$link")" "$root$(readlink "$link")")" "$link"
  done
  cp "$list" "$root/.installed"
}

install_venv() {
  local name=$1 requirements=tools/setup/requirements-$1.txt stamp=.venv/$1/.installed
  [[ -f $requirements ]] || { echo "error: no $requirements" >&2; exit 1; }
  cmp -s "$requirements" "$stamp" && return
  echo "Making the Python environment .venv/$name"
  rm -rf ".venv/$name"
  python3 -m venv ".venv/$name"
  # Modules that are imported are compiled then; most are not.
  local flags=(--quiet --disable-pip-version-check --no-cache-dir --no-compile)
  [[ $name == perf || $name == deploy || $name == triton ]] && flags+=(--no-deps)
  ".venv/$name/bin/pip" install "${flags[@]}" -r "$requirements"
  cp "$requirements" "$stamp"
}

case "${1:-}" in
  debian)
    mapfile -t packages < <(grep -v '^#' tools/setup/debian-packages.txt)
    install_debian "${packages[@]}"
    ;;
  ui) install_debian chromium ;;
  slow) install_debian buildah default-jre-headless iproute2 mmdebstrap ;;
  clang) install_debian clang-14 libclang-rt-14-dev ;;
  arm64)
    install_debian g++-aarch64-linux-gnu qemu-user
    make_arm64_sysroot
    ;;
  venv) install_venv "${2:?name of the environment}" ;;
  *) sed -n '2,9p' "$0"; exit 2 ;;
esac
