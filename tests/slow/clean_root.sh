#!/usr/bin/env bash
# Builds the Debian packages and uses each in a root folder that has nothing else. Needs root (or user namespaces with
# sub-ids) and a Debian 12 mirror: that of this machine's apt, or SIGLIP_DEBIAN_MIRROR.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v mmdebstrap >/dev/null || { echo "clean_root: SKIPPED, no mmdebstrap"; exit 0; }
mirror=${SIGLIP_DEBIAN_MIRROR:-/etc/apt/sources.list.d/debian.sources}
[[ $mirror == *:* || -f $mirror ]] || mirror=/etc/apt/sources.list

preset=${SIGLIP_PRESET:-package}
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" --target siglip siglip_shared man_page
(cd "build/$preset" && rm -f ./*.deb && cpack -G DEB >/dev/null)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/in"
cp "build/$preset"/*.deb "$work/in"
cp -r models/demo "$work/in/model"
cp data/demo/examples/seven.png tests/slow/consumer.c "$work/in"
cat >"$work/in/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C CXX)
find_package(siglip 0.1 REQUIRED)
add_executable(in_c consumer.c)
target_link_libraries(in_c PRIVATE siglip::c)
if(TARGET siglip::siglip)
  add_executable(in_cpp consumer.cc)
  target_link_libraries(in_cpp PRIVATE siglip::siglip)
endif()
CMAKE
cat >"$work/in/consumer.cc" <<'CPP'
#include <siglip/siglip.h>

#include <iostream>

int main(int, char** argv) {
  const auto model = siglip::Model::Open(argv[1]);
  if (!model.ok()) return std::cerr << model.status() << '\n', 1;
  std::cout << (*model)->EmbedText("a photo of seven")->size() << " numbers\n";
}
CPP

# What runs in the root, as its root.
cat >"$work/in/use.sh" <<'USE'
set -eux
unset CMAKE_C_COMPILER_LAUNCHER CMAKE_CXX_COMPILER_LAUNCHER  # of the machine outside
cd /in
siglip --version
siglip classify --model model --labels seven,star,circle --top 1 --format csv seven.png | grep '^seven.png,1,seven,'
siglip serve --model model --dry-run >/dev/null
man siglip | grep -q -- --metrics-port
bash -c '. /usr/share/bash-completion/completions/siglip; COMP_WORDS=(siglip serve --metrics-p); COMP_CWORD=2; _siglip
  test "${COMPREPLY[*]}" = --metrics-port'
echo 'SIGLIP_ARGS="--model /in/model"' >/etc/default/siglip
systemd-analyze verify /lib/systemd/system/siglip.service 2>&1 | tee verify.log
test ! -s verify.log
for package in siglip libsiglip0 libsiglip-dev; do test -s "/usr/share/doc/$package/copyright"; done
gcc consumer.c -o consumer $(pkg-config --cflags --libs siglip)
./consumer model seven.png
cmake -S . -B build >/dev/null
cmake --build build >/dev/null
./build/in_c model seven.png
test ! -e build/in_cpp  # that needs Abseil's headers
apt-get -qq -y --no-install-recommends install libabsl-dev >/dev/null
cmake -S . -B build >/dev/null
cmake --build build >/dev/null
./build/in_cpp model
# Each goes away without a trace.
apt-get -qq -y remove siglip libsiglip-dev libsiglip0 >/dev/null
test ! -e /usr/bin/siglip -a ! -e /usr/include/siglip
USE
mmdebstrap --variant=apt --include=gcc,g++,libc6-dev,make,cmake,pkg-config,man-db,systemd \
  --customize-hook="copy-in $work/in /" \
  --customize-hook='chroot "$1" sh -c "apt-get -qq -y --no-install-recommends install /in/*.deb >/dev/null"' \
  --customize-hook='chroot "$1" sh /in/use.sh' \
  bookworm /dev/null "$mirror"
echo "clean_root: passed"
