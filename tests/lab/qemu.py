# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU: the program, what it accelerates with, and its control socket (QMP)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
import typing as t
from pathlib import Path

from tests.lab.hosts import CACHE
from tests.lab.newer import emulator

#: Seconds that hardware acceleration has to get a kernel as far as its first program; a real one needs two.
TRIAL_SECONDS = 20


def program() -> list[str]:
    """The beginning of each of its command lines."""
    files = emulator() / "usr/share"
    return [
        str(emulator() / "usr/bin/qemu-system-x86_64"), "-L", str(files / "qemu"), "-L", str(files / "seabios"),
        "-nodefaults", "-no-user-config", "-display", "none",
    ]  # fmt: skip


def accelerator(kernel: Path, initrd: Path) -> list[str]:
    """What to accelerate with, asked for by name.

    Emulation, unless this machine has just booted a kernel with its hardware: nested acceleration is offered where it
    does not work, and then QEMU dies late instead of falling back.
    """
    memory = CACHE / "accelerator"  # the answer holds until the machine boots again
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not memory.exists() or memory.read_text().split()[0] != boot:
        memory.write_text(f"{boot} {'kvm' if _boots_with_kvm(kernel, initrd) else 'tcg'}\n")
    if memory.read_text().split()[1] == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem-v1"]


def _boots_with_kvm(kernel: Path, initrd: Path) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory(prefix="gridbox-kvm-") as name:
        console = Path(name) / "console"
        process = subprocess.Popen(
            [*program(), "-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "512", "-serial", f"file:{console}",
             "-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 panic=1", "-no-reboot"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + TRIAL_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                if console.exists() and b"Run /init as init process" in console.read_bytes():
                    return True
                time.sleep(0.1)
            return False
        finally:
            process.kill()
            process.wait(timeout=20)


class Control:
    """A QEMU's control socket.

    :raises RuntimeError: if QEMU refuses a command, with its sentence.
    """

    def __init__(self, path: Path, seconds: float = 20) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError as exc:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Waited {seconds:g} s for QEMU's control socket {path}: {exc}") from exc
                time.sleep(0.02)
        self._socket.settimeout(120)
        self._answers = self._socket.makefile("r", encoding="utf-8")
        self._answers.readline()  # its greeting
        self.tell("qmp_capabilities")

    def tell(self, command: str, **arguments: t.Any) -> t.Any:
        """Give a command and return its answer."""
        self._socket.sendall((json.dumps({"execute": command, "arguments": arguments}) + "\n").encode())
        while True:
            line = self._answers.readline()
            if not line:
                raise RuntimeError(f"QEMU ended before it answered {command}.")
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"QEMU refuses {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        """Let go of it; QEMU runs on."""
        self._answers.close()
        self._socket.close()

    # The memory is a file that both sides map, so only the devices' state is written and read.

    def save(self, state: Path) -> None:
        """Stop the machine and write the state of its devices. QEMU then waits for its end."""
        self.tell("stop")
        self._migrate("migrate", state)

    def load(self, state: Path) -> None:
        """Take the state of another one's devices and run on from there."""
        self._migrate("migrate-incoming", state)
        self.tell("cont")

    def _migrate(self, command: str, state: Path) -> None:
        self.tell("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        self.tell(command, uri=f"file:{state}")
        deadline = time.monotonic() + 120
        while True:
            seen = self.tell("query-migrate")
            if seen.get("status") == "completed":
                return
            if seen.get("status") == "failed":
                raise RuntimeError(f"QEMU could not {command} {state}: {seen.get('error-desc')}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Waited 120 s for QEMU to {command} {state}; it is {seen.get('status')}.")
            time.sleep(0.02)
