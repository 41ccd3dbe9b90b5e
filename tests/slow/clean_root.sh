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

# What runs in the root, as its root.
cat >"$work/in/use.sh" <<'USE'
set -eux
cd /in
siglip --version
siglip classify --model model --labels seven,star,circle --top 1 --format csv seven.png | grep '^seven.png,1,seven,'
siglip serve --model model --dry-run >/dev/null
test -s /usr/share/man/man1/siglip.1* -a -s /usr/share/bash-completion/completions/siglip
test -s /lib/systemd/system/siglip.service
for package in siglip libsiglip0 libsiglip-dev; do test -s "/usr/share/doc/$package/copyright"; done
gcc consumer.c -o consumer $(pkg-config --cflags --libs siglip)
./consumer model seven.png
# Each goes away without a trace.
apt-get -qq -y remove siglip libsiglip-dev libsiglip0 >/dev/null
test ! -e /usr/bin/siglip -a ! -e /usr/include/siglip
USE
mmdebstrap --variant=apt --include=gcc,libc6-dev,pkg-config \
  --customize-hook="copy-in $work/in /" \
  --customize-hook='chroot "$1" sh -c "apt-get -qq -y --no-install-recommends install /in/*.deb >/dev/null"' \
  --customize-hook='chroot "$1" sh /in/use.sh' \
  bookworm /dev/null "$mirror"
echo "clean_root: passed"
