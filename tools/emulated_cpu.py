#!/usr/bin/env python3
"""Runs programs of this machine on an x86 processor that it does not have: a Linux in Bochs.

    tools/emulated_cpu.py MODEL [-e NAME=VALUE]... PROGRAM [ARGUMENT]...
    tools/emulated_cpu.py tigerlake -e SIGLIP_TEST_ISA=avx512 build/ci/src/kernels/kernels_test

Prints what the program prints and ends with its exit code; 125 if the machine did not come up or
did not finish in time. MODEL is one of `bochs --help cpu` (packages bochs, bochs-term, bochsbios,
vgabios): corei7_skylake_x has AVX-512 F, BW, CD, DQ and VL; tigerlake has VNNI, VBMI and more besides. It is
some hundred times slower than the machine it runs on: choose tests. The kernel, its boot loader and
a shell come from Debian packages, which are fetched once into build/emulated_cpu/.
"""

import argparse
import os
import pathlib
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tty

ROOT = pathlib.Path(__file__).resolve().parent.parent
STORE = ROOT / "build" / "emulated_cpu"
# The kernel's metapackage, for the version of the day; it has what a virtual machine needs built in.
KERNEL = "linux-image-cloud-amd64"
PACKAGES = ["busybox-static", "genisoimage", "isolinux", "syslinux-common"]
MEMORY_MIB = 512
# Emulated instructions a second of the guest's clock. Nothing waits for the real one.
INSTRUCTIONS_PER_SECOND = 100_000_000
FAILED = 125
DONE = re.compile(rb"emulated_cpu: exit code (\d+)")
SCREEN = re.compile(rb'connected to screen "([^"]+)"')
STARTED = b"emulated_cpu: started\n"

# What a kernel of version 6.1 must leave alone in Bochs 2.7: XSAVEC and XSAVES, whose sizes Bochs states wrongly, and
# with them protection keys; some of UMIP, RDPID, fast short REP MOVSB, IBT, split locks and the TSC deadline timer,
# without which only Skylake starts. Features by number: 32 * word + bit of the kernel's cpufeatures.h.
KERNEL_OPTIONS = ("tsc=reliable nosmp idle=halt lapic=notscdeadline ibt=off split_lock_detect=off "
                  "clearcpuid=321,323,514,515,534,580")
BOOT_MENU = f"""\
default linux
label linux
  kernel /linux
  initrd /initrd
  append console=ttyS0 quiet mitigations=off lsm= panic=-1 {KERNEL_OPTIONS}
"""

BOCHS = """\
display_library: term
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model={model}, count=1, ips={ips}
memory: guest={mib}, host={mib}
clock: sync=none
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={image}, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={serial}
log: {log}
plugin_ctrl: speaker=0
panic: action=fatal
error: action=ignore
info: action=ignore
"""

# The shell's lines end in \\n on the serial line: stty -onlcr.
INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
stty -onlcr < /dev/ttyS0
export PATH=/bin HOME=/tmp TMPDIR=/tmp
cd /tmp
{exports}
echo "emulated_cpu: started"
{command}
code=$?
if [ $code -ge 128 ]; then dmesg | tail -n 3; fi
echo "emulated_cpu: exit code $code"
sync
while :; do sleep 1000; done
"""


def unpacked_packages() -> pathlib.Path:
    """The folder with the contents of all packages, fetched if it is not there."""
    folder = STORE / "packages"
    if folder.exists():
        return folder
    depends = subprocess.run(["apt-cache", "depends", KERNEL], check=True, capture_output=True, text=True).stdout
    kernel = re.search(r"Depends: (linux-image-\S+)", depends)
    if kernel is None:
        sys.exit(f"error: expected {KERNEL} to depend on a linux-image package, got:\n{depends}")
    STORE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STORE) as name:
        subprocess.run(["apt-get", "download", "-q", kernel.group(1), *PACKAGES], check=True, cwd=name,
                       stdout=sys.stderr)
        for package in pathlib.Path(name).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, pathlib.Path(name) / "all"], check=True)
        (pathlib.Path(name) / "all").rename(folder)
    return folder


class Archive:
    """Linux's initramfs: a cpio archive, format newc."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._inode = 0
        self._folders: set[str] = set()

    def add(self, path: str, mode: int, content: bytes) -> None:
        self._inode += 1
        name = path.encode() + b"\0"
        fields = [self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
        self._bytes += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        self._pad()
        self._bytes += content
        self._pad()

    def folder(self, path: str) -> None:
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            parent = "/".join(parts[:end])
            if parent and parent not in self._folders:
                self._folders.add(parent)
                self.add(parent, 0o40755, b"")

    def file(self, path: str, content: bytes) -> None:
        self.folder(path.rpartition("/")[0])
        self.add(path, 0o100755, content)

    def finished(self) -> bytes:
        self.add("TRAILER!!!", 0, b"")
        return bytes(self._bytes)

    def _pad(self) -> None:
        self._bytes += bytes(-len(self._bytes) % 4)


def libraries_of(program: pathlib.Path) -> list[str]:
    """Absolute paths of the shared libraries of a program, the loader included."""
    run = subprocess.run(["ldd", program], capture_output=True, text=True)
    return re.findall(r"(/\S+) \(0x", run.stdout)


def initramfs(packages: pathlib.Path, program: pathlib.Path, arguments: list[str], environment: list[str]) -> bytes:
    archive = Archive()
    for folder in ["bin", "dev", "proc", "sys", "tmp"]:
        archive.folder(folder)
    archive.file("bin/busybox", (packages / "bin/busybox").read_bytes())
    for tool in ["sh", "dmesg", "mount", "sleep", "stty", "sync", "tail"]:
        archive.add(f"bin/{tool}", 0o120777, b"busybox")
    archive.file("program", program.read_bytes())
    for library in libraries_of(program):
        archive.file(library.lstrip("/"), pathlib.Path(library).read_bytes())
    exports = "\n".join("export " + shlex.quote(entry) for entry in environment)
    command = shlex.join(["/program", *arguments])
    archive.file("init", INIT.format(exports=exports, command=command).encode())
    return archive.finished()


def make_image(packages: pathlib.Path, ramdisk: bytes, folder: pathlib.Path) -> pathlib.Path:
    """A CD that boots the kernel with `ramdisk`."""
    content = folder / "cd"
    content.mkdir()
    shutil.copy(packages / "usr/lib/ISOLINUX/isolinux.bin", content)
    shutil.copy(packages / "usr/lib/syslinux/modules/bios/ldlinux.c32", content)
    shutil.copy(next((packages / "boot").glob("vmlinuz-*")), content / "linux")
    (content / "initrd").write_bytes(ramdisk)
    (content / "isolinux.cfg").write_text(BOOT_MENU)
    image = folder / "cd.iso"
    subprocess.run([packages / "usr/bin/genisoimage", "-quiet", "-o", image, "-b", "isolinux.bin", "-c", "boot.cat",
                    "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", content], check=True)
    return image


class Serial:
    """What the guest has written, passed on from the line that says that the program was started."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._passed = 0
        self.text = b""

    def poll(self) -> int | None:
        """The program's exit code, once it is there."""
        self.text = self._path.read_bytes().replace(b"\r", b"") if self._path.exists() else b""
        start = self.text.find(STARTED)
        if start < 0:
            return None
        output = self.text[start + len(STARTED):]
        done = DONE.search(output)
        shown = output[:done.start()] if done else output[:output.rfind(b"\n") + 1]
        sys.stdout.buffer.write(shown[self._passed:])
        sys.stdout.flush()
        self._passed = len(shown)
        return int(done.group(1)) if done else None


def drain(terminal: int) -> None:
    """Reads and drops what Bochs writes, also to the terminal that it opens to draw the guest's screen on: it stands
    still when that is full."""
    screen = None
    said = b""
    try:
        while data := os.read(terminal, 65536):
            said = said[-1000:] + data
            if screen is None and (screen := SCREEN.search(said)) is not None:
                other = os.open(screen.group(1), os.O_RDWR | os.O_NOCTTY)
                tty.setraw(other)
                threading.Thread(target=drain, args=[other], daemon=True).start()
    except OSError:
        pass  # Bochs has ended


def run(model: str, image: pathlib.Path, folder: pathlib.Path, timeout_s: float) -> int:
    serial = Serial(folder / "serial")
    log = folder / "bochs.log"
    config = folder / "bochsrc"
    config.write_text(BOCHS.format(model=model, ips=INSTRUCTIONS_PER_SECOND, mib=MEMORY_MIB, image=image,
                                   serial=folder / "serial", log=log))
    # Debian's Bochs is its own debugger, and waits for an order.
    orders = folder / "orders"
    orders.write_text("continue\n")
    ours, its = pty.openpty()
    bochs = subprocess.Popen(["bochs", "-q", "-f", config, "-rc", orders], stdin=its, stdout=its, stderr=its, cwd=folder,
                             env={**os.environ, "TERM": "xterm"}, start_new_session=True)
    os.close(its)
    threading.Thread(target=drain, args=[ours], daemon=True).start()
    end = time.monotonic() + timeout_s
    try:
        while bochs.poll() is None and time.monotonic() < end:
            code = serial.poll()
            if code is not None:
                return code
            time.sleep(0.5)
    finally:
        bochs.kill()
        bochs.wait()
    reason = "ended by itself" if time.monotonic() < end else f"was not done after {timeout_s:.0f} s"
    print(f"error: the emulated machine {reason}. Its last words:\n" +
          serial.text[-2000:].decode(errors="replace"), file=sys.stderr)
    if log.exists():
        print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
    return FAILED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-e", dest="environment", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--timeout", type=float, default=3600, metavar="SECONDS")
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    packages = unpacked_packages()
    with tempfile.TemporaryDirectory(dir=STORE) as name:
        folder = pathlib.Path(name)
        ramdisk = initramfs(packages, options.program, options.arguments, options.environment)
        return run(options.model, make_image(packages, ramdisk, folder), folder, options.timeout)


if __name__ == "__main__":
    sys.exit(main())
