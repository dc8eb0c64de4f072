# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual machines for what a machine in namespaces (tests/lab/hosts.py) cannot show: a kernel of its own with device
mapper, udev, a boot order, all capabilities, reboots and power cuts.

One is booted, warmed up and frozen: memory, devices and disk (two minutes, once, into a cache folder). All others are
clones that run on from there, in three seconds instead of twenty, each with disks of its own on top. After a power cut
a clone boots from its own disk like any computer. It has ssh on a port of the loopback, a link ``lan0`` on a lab's LAN
(tests/lab/fleet.py), and an empty second disk for a volume group.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import typing as t
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.lab.lan import BRIDGE
from ansible_collections.hep.gridbox.plugins.module_utils.network.wire import inside
from tests.lab.hosts import (
    BASE,
    CACHE,
    IMAGES,
    INSTALL,
    OFF,
    REPLACED,
    REPOSITORY,
    bootstrap,
    lives,
    made_once,
    run,
    ssh,
    with_split_off,
)
from tests.lab.qemu import Control, accelerator, program

#: What a machine with a kernel of its own has beside.
KERNEL = (
    "linux-image-cloud-amd64 initramfs-tools udev cron python3-apt lvm2 xfsprogs e2fsprogs parted quota curl"
).split()

MEGABYTES = 1536
#: Seconds for a boot, on a busy machine without hardware acceleration, and how often it may be tried. Now and then the
#: clock of an emulated processor stands still ("Possible timer handling issue", says its kernel), and all in it waits
#: for ever. It was seen with two processors only, with which a boot is no shorter.
BOOT_SECONDS, BOOT_TRIES = 400, 3
#: An emulated machine has time-outs of its own inside (systemd's 90 s for a disk), so a busy machine serves it first.
_NICE = ["nice", "-n", "-10"]
#: What its kernel need not do at each boot, where every instruction is emulated.
_SPARED = "mitigations=off nowatchdog audit=0 cryptomgr.notests nokaslr"

_MANAGEMENT_MAC, _LAN_MAC = "52:54:00:12:34:01", "52:54:00:77:00:"
# <linux/if_tun.h>
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000

# Names by MAC, for those of the kernel depend on the slot.
_FILES = {
    "10-mgmt.link": f"[Match]\nMACAddress={_MANAGEMENT_MAC}\n[Link]\nName=mgmt0\n",
    "11-lan.link": f"[Match]\nPermanentMACAddress={_LAN_MAC}00\nDriver=virtio_net\n[Link]\nName=lan0\n",
    "20-mgmt.network": "[Match]\nName=mgmt0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
}


def frozen(suite: str, image: str) -> Path:
    """The folder of a frozen machine, made now if it is not there: kernel, disk, memory and devices."""
    packages = BASE + KERNEL + with_split_off(suite, IMAGES[image])
    recipe = hashlib.sha256(f"{suite} {packages} {REPOSITORY} {REPLACED} {_FILES} 5".encode()).hexdigest()[:12]
    return made_once(
        f"vm-{suite}-{image}", recipe, lambda folder: _make(folder, suite, packages),
        in_use=lambda: any((CACHE / "vms").glob("*")),  # the disk of a machine that runs lies on its image's
    )  # fmt: skip


def _make(folder: Path, suite: str, packages: list[str]) -> None:
    bootstrap(folder, suite, packages)
    root = folder / "root"
    repository = root / "srv/packages"
    repository.rmdir()
    (folder / "packages").rename(repository)
    for name, text in _FILES.items():
        (root / "etc/systemd/network" / name).write_text(text)
    run("chroot", str(root), "systemctl", "enable", "systemd-networkd.service")
    run("chroot", str(root), "systemctl", "mask", *OFF, "systemd-networkd-wait-online.service")
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    (root / "etc/hostname").write_text("vm\n")
    for what in ("vmlinuz", "initrd.img"):
        [found] = (root / "boot").glob(f"{what}-*")
        shutil.copy(found, folder / what.partition(".")[0])
    raw = folder / "disk.raw"
    with raw.open("wb") as disk:
        disk.truncate(8 << 30)
    run("mkfs.ext4", "-q", "-F", "-d", str(root), str(raw), timeout=600)
    run("qemu-img", "convert", "-O", "qcow2", str(raw), str(folder / "golden.qcow2"), timeout=600)
    raw.unlink()
    shutil.rmtree(root)
    _freeze(folder)


def _freeze(folder: Path) -> None:
    """Boot the golden disk once and keep the machine as it is when it is up."""
    name = f"frozen-{os.getpid()}"
    machine = VirtualMachine(name)
    machine.stop()
    machine.folder.mkdir(parents=True)
    try:
        disk = folder / "root.qcow2"
        # A relative name, for the folder gets another one when it is done.
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "golden.qcow2", "-F", "qcow2", str(disk))
        run("qemu-img", "create", "-q", "-f", "qcow2", str(folder / "extra.qcow2"), "8G")
        port = _free_port()
        (machine.folder / "port").write_text(str(port))
        nowhere = ["-netdev", "hubport,id=n1,hubid=1"]
        memory = f"memory-backend-file,id=m0,size={MEGABYTES}M,mem-path={folder / 'ram'},share=on"
        process = machine.boot(lambda: machine.emulate(folder, disk, folder / "extra.qcow2", memory, nowhere, None))
        machine.run("sh", "-c", _WARM, timeout=BOOT_SECONDS)
        control = Control(machine.folder / "control")
        control.save(folder / "devices")
        control.tell("quit")
        process.wait(timeout=60)
        (folder / "accelerator").write_text(_accelerator(folder))
    finally:
        machine.stop()


def _accelerator(base: Path) -> str:
    return " ".join(accelerator(base / "vmlinuz", base / "initrd"))


#: What every play asks for first is in memory when the machine is frozen, and nothing that is only cache.
_WARM = "python3 -c 'import json, subprocess, apt' && sync && echo 3 >/proc/sys/vm/drop_caches"

#: What a clone changes about itself. $1 name, $2 number on the LAN, $3 and $4 its addresses there.
_BECOME = """set -e
date --set=@$(($5 + 1)) >/dev/null
hostnamectl set-hostname "$1"
printf '127.0.0.1 localhost\\n::1 localhost\\n127.0.1.1 %s\\n' "$1" >/etc/hosts
cat >/etc/systemd/network/30-lan.network <<END
[Match]
Name=lan0
[Link]
MACAddress=MAC$(printf %02x "$2")
[Network]
Address=$3
Address=$4
IPv6AcceptRA=no
END
networkctl reload
networkctl reconfigure lan0
for try in $(seq 100); do
    [ "$(cat /sys/class/net/lan0/operstate)" = up ] && exit
    sleep 0.1
done
echo "lan0 did not come up in 10 s" >&2
exit 1
""".replace("MAC$", f"{_LAN_MAC}$")


class VirtualMachine:
    """One virtual machine. All of it lies in its folder, but for its tap on the LAN, which ends with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = CACHE / "vms" / name

    # ---- life ---------------------------------------------------------------------------------------------------

    def start(self, suite: str, image: str, lan: str, number: int, addresses: tuple[str, str]) -> None:
        """Clone the frozen one: a machine that runs, with disks of its own.

        :param lan: the namespace of a lab LAN's bridge.
        :param number: of the machine on the LAN, 1 to 254: its MAC ends in it.
        :param addresses: its own there, IPv4 and IPv6, with prefix length.
        """
        self.stop()
        base = frozen(suite, image)
        self.folder.mkdir(parents=True)
        for name, disk in (("root", self._disk), ("extra", self._extra)):
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base / f"{name}.qcow2"), "-F", "qcow2", str(disk))
        (self.folder / "base").symlink_to(base)
        (self.folder / "lan").write_text(f"{lan} {number}")
        if (base / "accelerator").read_text() == _accelerator(base):
            memory = f"memory-backend-file,id=m0,size={MEGABYTES}M,mem-path={base / 'ram'},share=off"
            process = self._plugged_in(memory, incoming=True)
            control = Control(self.folder / "control")
            control.load(base / "devices")
            control.close()
            self.wait(process)
        else:
            self.power_on()  # what is frozen is another processor's: the cache is of before this machine's last boot
        self.run("sh", "-c", _BECOME, "sh", self.name, str(number), *addresses, str(int(time.time())))

    def power_on(self) -> None:
        """Boot it from its own disk and wait until its systemd has finished the boot; a unit may have failed."""
        self.boot(lambda: self._plugged_in(f"memory-backend-ram,id=m0,size={MEGABYTES}M", incoming=False))

    def boot(self, switch_on: t.Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Boot it, once more if need be, and wait until its systemd has finished the boot.

        :param switch_on: starts QEMU.
        """
        for left in reversed(range(BOOT_TRIES)):
            process = switch_on()
            try:
                self.wait(process)
                break
            except RuntimeError as exc:
                if not left:
                    raise
                print(f"{exc}\nIts power is cut, and it is booted again.", file=sys.stderr)
                self.cut_power()
        return process

    def power_off(self, seconds: float = 900) -> None:
        """Shut it down as its operator does."""
        self.run("systemctl", "poweroff", check=False)
        deadline = time.monotonic() + seconds
        while lives(self._pid):
            if time.monotonic() > deadline:
                raise RuntimeError(f"Waited {seconds:g} s for the virtual machine {self.name} to shut down.")
            time.sleep(0.1)

    def cut_power(self) -> None:
        """End it as a power cut does: what was not on its disk is lost."""
        if not (self.folder / "pid").exists():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while lives(self._pid):
            if time.monotonic() > deadline:
                raise RuntimeError(f"Waited 30 s for QEMU's process {self._pid} to end after SIGKILL.")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it and remove all of it."""
        self.cut_power()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _plugged_in(self, memory: str, incoming: bool) -> subprocess.Popen[bytes]:
        lan, number = (self.folder / "lan").read_text().split()
        (self.folder / "port").write_text(str(_free_port()))
        tap = _tap(lan, f"vm{number}")
        try:
            base = (self.folder / "base").resolve()
            plug = ["-netdev", f"tap,id=n1,fd={tap}"]
            return self.emulate(base, self._disk, self._extra, memory, plug, tap, incoming=incoming)
        finally:
            os.close(tap)

    def emulate(
        self, base: Path, disk: Path, extra: Path, memory: str, plug: list[str], tap: int | None,
        incoming: bool = False,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        """Start QEMU. What is frozen goes on only in the same machine, so there is one command line for all."""
        port = int((self.folder / "port").read_text())
        with (self.folder / "console").open("ab") as console, (self.folder / "qemu.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *_NICE, *program(), "-name", self.name, "-M", "q35,memory-backend=m0",
                    *accelerator(base / "vmlinuz", base / "initrd"), "-smp", "1", "-m", str(MEGABYTES),
                    "-object", memory, "-serial", "stdio", "-rtc", "base=utc,clock=host",
                    "-qmp", f"unix:{self.folder / 'control'},server=on,wait=off",
                    "-kernel", str(base / "vmlinuz"), "-initrd", str(base / "initrd"),
                    "-append", f"root=/dev/vda rw console=ttyS0 quiet {_SPARED}",
                    "-drive", f"if=none,id=d0,file={disk},format=qcow2,cache=writeback",
                    "-device", "virtio-blk-pci,drive=d0",
                    "-drive", f"if=none,id=d1,file={extra},format=qcow2,cache=writeback",
                    "-device", "virtio-blk-pci,drive=d1",
                    "-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
                    "-device", f"virtio-net-pci,netdev=n0,mac={_MANAGEMENT_MAC},romfile=",
                    *plug, "-device", f"virtio-net-pci,netdev=n1,mac={_LAN_MAC}00,romfile=",
                    "-device", "virtio-rng-pci", *(["-incoming", "defer"] if incoming else []),
                ],
                stdin=subprocess.DEVNULL, stdout=console, stderr=log, start_new_session=True,
                pass_fds=[] if tap is None else [tap],
            )  # fmt: skip
        (self.folder / "pid").write_text(str(process.pid))
        return process

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until its systemd has finished the boot."""
        deadline = time.monotonic() + BOOT_SECONDS
        state = ""
        while state not in ("running", "degraded"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"Waited {BOOT_SECONDS} s for the virtual machine {self.name} to run; its systemd says:"
                    f" {state or 'nothing'}. {(self.folder / 'qemu.log').read_text()[-500:]}"
                    f" {(self.folder / 'console').read_text(errors='replace')[-1500:]}"
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                state = self.run("systemctl", "is-system-running", timeout=60, check=False).stdout.strip()
            time.sleep(2)  # each connection is seconds of work for an emulated processor

    # ---- the way in ---------------------------------------------------------------------------------------------

    def run(self, *argv: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root."""
        done = subprocess.run(
            [*ssh(self.name), shlex.join(argv)],
            capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def feed(self, data: bytes, *argv: str) -> None:
        """Run a command in it, as root, that reads ``data``."""
        subprocess.run([*ssh(self.name), shlex.join(argv)], input=data, check=True, timeout=300)

    def install(self, *packages: str) -> None:
        """Install packages of Debian's in it."""
        self.run("apt-get", "-qq", "update", timeout=300)
        self.run(*INSTALL, *packages, timeout=900)

    @property
    def _pid(self) -> int:
        return int((self.folder / "pid").read_text())

    @property
    def _disk(self) -> Path:
        return self.folder / "root.qcow2"

    @property
    def _extra(self) -> Path:
        return self.folder / "extra.qcow2"


def _tap(lan: str, name: str) -> int:
    """A tap on the LAN's bridge; the descriptor that is its other end. It lives as long as that is open."""
    with inside(f"/run/netns/{lan}"):
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        deadline = time.monotonic() + 10
        while True:
            try:
                fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
                break
            except OSError as exc:
                # The kernel takes a killed QEMU's tap away some time after its process has gone.
                if exc.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    run("ip", "-n", lan, "link", "set", name, "master", BRIDGE, "up")
    os.set_inheritable(descriptor, True)
    return descriptor


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
