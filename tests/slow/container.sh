#!/usr/bin/env bash
# Builds the image of deploy/container/Containerfile with buildah and uses it as a pod of deploy/kubernetes/cpu.yaml would.
# Needs root, no registry: the base comes from a Debian 12 mirror, that of this machine's apt or SIGLIP_DEBIAN_MIRROR. The
# GPU image needs NVIDIA's packages: its build is configured only. STORAGE_DRIVER=overlay is faster where it works.
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in buildah mmdebstrap ip; do
  command -v "$tool" >/dev/null || { echo "container: SKIPPED, no $tool"; exit 0; }
done
[[ $(id -u) -eq 0 ]] || { echo "container: SKIPPED, not root"; exit 0; }
mirror=${SIGLIP_DEBIAN_MIRROR:-/etc/apt/sources.list.d/debian.sources}
[[ $mirror == *:* || -f $mirror ]] || mirror=/etc/apt/sources.list
tools/setup/install.sh venv clients

work=$(mktemp -d)
net=siglip-$$
with_store() { buildah --root "$work/store" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-vfs}" "$@"; }
finish() {
  ip netns delete "$net" 2>/dev/null || true
  with_store rm --all >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

# Minimal, merged /usr, without documentation: as near to debian:12-slim as matters here, and found by its name.
mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/base.tar" "$mirror"
base=$(with_store from scratch)
with_store add --quiet "$base" "$work/base.tar" / >/dev/null
with_store commit --quiet --rm "$base" docker.io/library/debian:12-slim >/dev/null

# What git has, checked out by somebody whose files are nobody else's.
commit=$(git rev-parse --short=12 HEAD)
(umask 077 && mkdir "$work/checkout" && git ls-files -z | xargs -0 cp --parents --target-directory="$work/checkout")
build() {  # build TARGET
  with_store bud --isolation chroot --pull-never --layers --file deploy/container/Containerfile --target "$1" \
    --build-arg COMMIT="$commit" --tag "siglip-$1" "$work/checkout"
}
build cpu

# Of the GPU image, whose packages are NVIDIA's: whether Debian's own CMake takes this machine's toolkit.
if command -v nvcc >/dev/null; then
  build tools >/dev/null
  tools=$(with_store from --pull-never siglip-tools)
  toolkit=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
  configure=$(awk '/AS build-cuda/ { on = 1 } on && sub(/^RUN cmake/, "cmake") { of = 1 } of && /&&/ { exit }
    of { sub(/\\$/, ""); printf "%s", $0 }' deploy/container/Containerfile)
  with_store run --isolation chroot --volume "$toolkit:/usr/local/cuda:ro" --volume "$work/checkout:/src" "$tools" \
    env COMMIT="$commit" PATH=/usr/local/cuda/bin:/usr/bin:/bin sh -c "$configure" >"$work/cuda" || { cat "$work/cuda"; exit 1; }
else
  echo "container: the GPU part SKIPPED, no nvcc"
fi

config() { with_store inspect --type image --format "{{$1}}" siglip-cpu; }
[[ $(config .OCIv1.Config.User) == 10001:10001 ]]
container=$(with_store from --pull-never siglip-cpu)
root=$(with_store mount "$container")
mkdir "$root/models"  # engines make mount points
ip netns add "$net"
ip -netns "$net" link set lo up

# `$work/pod COMMAND...`: root read-only, no capabilities, no privileges to come, an empty /cache, 64 MiB of shared memory.
cat >"$work/in_pod" <<'POD'
set -eu
root=$1
mount --bind "$root" "$root"
mount --bind models/demo "$root/models"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs -o size=64m tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=777 tmpfs "$root/cache"
mount -o remount,bind,ro "$root"
shift
exec chroot "$root" setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
POD
cat >"$work/pod" <<POD
#!/bin/sh
exec ip netns exec $net unshare --mount --pid --fork --kill-child sh "$work/in_pod" "$root" "\$@"
POD
chmod +x "$work/pod"

expect() { "$@" || { echo "error: container: failed: $*" >&2; exit 1; }; }
refuse() { if "$@"; then echo "error: container: succeeded: $*" >&2; exit 1; fi; }

base_mb=$(($(stat -c %s "$work/base.tar") / 1000000))
image_mb=$(du -sm "$root" | cut -f1)
echo "container: $image_mb MB, of which the base has $base_mb"
expect test $((image_mb - base_mb)) -lt 150
for leftover in src usr/bin/{cc,ld,cmake,ninja,git,python3} usr/include/absl; do refuse test -e "$root/$leftover"; done
expect test -z "$(find "$root"/var/lib/apt/lists "$root"/var/cache/apt "$root"/tmp -type f ! -name lock)"
expect test "$("$work/pod" id)" == "uid=10001(siglip) gid=10001(siglip) groups=10001(siglip)"
"$work/pod" siglip --version | tee "$work/version"
expect grep -q "$commit" "$work/version"
refuse grep 'not found' <("$work/pod" ldd /usr/local/bin/siglip)
"$work/pod" sh -c 'test -s /opt/siglip/LICENSE && touch /cache/here'
refuse "$work/pod" touch /here
mapfile -t default < <(config 'range .OCIv1.Config.Entrypoint}}{{println .}}{{end}}{{range .OCIv1.Config.Cmd}}{{println .}}{{end')
"$work/pod" "${default[@]}" --dry-run >/dev/null

# The pod's own arguments; the command of docs/deploy.md that tells a container engine when it is ready.
mapfile -t arguments < <(sed -n 's/^ \{12\}- \(serve\|--.*\)$/\1/p' deploy/kubernetes/cpu.yaml)
health=$(sed -n 's/^ *--health-cmd "\(.*\)" .*/\1/p' docs/deploy.md | sed 's/\\"/"/g')
refuse "$work/pod" sh -c "$health"
"$work/pod" siglip "${arguments[@]}" >"$work/log" 2>&1 &
server=$!
for ((tries = 0; tries < 600; ++tries)); do
  "$work/pod" sh -c "$health" 2>/dev/null && break
  sleep 0.1
done
expect test "$tries" -lt 600
expect grep 'decode_workers count=.* sandbox="seccomp' "$work/log"
expect ip netns exec "$net" .venv/clients/bin/python tests/slow/container.py "$(cat "/proc/$server/task/$server/children")"
expect wait "$server"
expect grep 'drained: every accepted request was answered' "$work/log"
echo "container: passed"
