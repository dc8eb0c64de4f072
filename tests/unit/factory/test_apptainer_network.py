# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import account, apptainer_network
from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_engine import ApptainerEngine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_network import join, resolvers
from ansible_collections.hep.gridbox.plugins.module_utils.host import command

NO_NAMESPACES = "User and network namespaces cannot be made by the machines' account."


def becoming(shell: str) -> t.Callable[..., subprocess.Popen[bytes]]:
    """Starts this instead of what it is told to."""
    return lambda _argv, **streams: subprocess.Popen(["sh", "-c", shell], **streams)


@pytest.fixture()
def ends(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, and the machine's."""
    monkeypatch.setattr(apptainer_network, "_SECONDS", 0.3)
    monkeypatch.setattr(apptainer_network, "_shown_program", lambda _folder: "pasta")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_is_joined(ends: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    ends[1].sendall(b"\n")
    asked: list[t.Sequence[str]] = []

    def start(argv: t.Sequence[str], **streams: t.Any) -> subprocess.Popen[bytes]:
        asked.append(argv)
        return becoming("exit 0")(argv, **streams)

    join(4242, ends[0], start, str(tmp_path))
    [argv] = asked
    assert (argv[0], argv[-1]) == ("pasta", "4242")
    assert not list(tmp_path.iterdir())  # the host's names serve


@pytest.mark.parametrize(
    ("shell", "error", "sentence"),
    [
        ("echo why >&2; exit 1", GridboxError, "It has no network: pasta ended with 1 and says: why."),
        ("exec sleep 30", WaitError, "Waited 0.3 s for pasta to join its network to the host's, in vain."),
    ],
)
def test_what_cannot_be_joined_is_told(
    ends: tuple[socket.socket, socket.socket], shell: str, error: type[GridboxError], sentence: str
) -> None:
    ends[1].sendall(b"\n")
    with pytest.raises(error) as raised:
        join(4242, ends[0], becoming(shell), "/none")
    assert str(raised.value) == sentence


def test_without_namespaces_there_is_nothing_to_join(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(WaitError, match=r"^Waited 0.3 s for its namespaces to be made, in vain\.$"):
        join(4242, ends[0], becoming("exit 0"), "/none")
    ends[1].close()
    with pytest.raises(GridboxError, match=rf"^{NO_NAMESPACES}$"):
        join(4242, ends[0], becoming("exit 0"), "/none")


def test_a_host_that_cannot_is_told_so_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = "exit 0"
    monkeypatch.setattr(command, "SYSTEM_PATH", f"{tmp_path}:{os.defpath}")
    monkeypatch.setattr(account, "become", lambda *_numbers: ["sh", "-c", trial])
    engine = ApptainerEngine(str(tmp_path), "vacsing", "/cvmfs", lambda *_: None)
    monkeypatch.setattr(shutil, "which", lambda name, path: path if (tmp_path / name).exists() else None)
    engine.check_network("host", False)
    engine.check_network("bridge", True)
    with pytest.raises(RefusedError, match=r"^network: bridge: this host has no pasta\. Install passt, or "):
        engine.check_network("bridge", False)
    (tmp_path / "pasta").touch(0o755)
    engine.check_network("bridge", False)
    trial = "echo unshare failed: No space left on device >&2; exit 1"
    told = (
        r"cannot be made by the machines' account\. Making namespaces failed.* No space left on device\. See the guide"
    )
    with pytest.raises(RefusedError, match=told):
        engine.check_network("bridge", True)


@pytest.mark.parametrize(
    "resolv_conf",
    [
        "search example.org\nnameserver 192.0.2.1\nnameserver fd00::1\n",
        "nameserver fe80::1%eth0\n",
        "nameserver nonsense\n",
    ],
)
def test_resolvers_that_everybody_reaches_stay(resolv_conf: str) -> None:
    assert resolvers(resolv_conf) is None


@pytest.mark.parametrize(
    ("resolv_conf", "machines", "hosts", "forwarded"),
    [
        (
            "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0\nsearch example.org\n",
            "# by systemd-resolved\nnameserver 10.0.2.3\noptions edns0\nsearch example.org\n",
            "nameserver 127.0.0.53\n", ("10.0.2.3",),
        ),
        ("nameserver\t127.0.0.1 \n", "nameserver 10.0.2.3\n", "nameserver 127.0.0.1\n", ("10.0.2.3",)),
        ("nameserver ::1\n", "nameserver fd00:10:2::3\n", "nameserver ::1\n", ("fd00:10:2::3",)),
        (
            "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 192.0.2.1\nnameserver ::1\n",
            "nameserver 10.0.2.3\nnameserver 192.0.2.1\nnameserver fd00:10:2::3\n",
            "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver ::1\n", ("10.0.2.3", "fd00:10:2::3"),
        ),
        # As resolv.conf(5) has it, that is the local machine.
        ("search example.org\n", "nameserver 10.0.2.3\nsearch example.org\n", "nameserver 127.0.0.1\n", ("10.0.2.3",)),
        ("", "nameserver 10.0.2.3\n", "nameserver 127.0.0.1\n", ("10.0.2.3",)),
    ],
)  # fmt: skip
def test_a_resolver_on_the_hosts_loopback_is_reached(
    resolv_conf: str, machines: str, hosts: str, forwarded: tuple[str, ...]
) -> None:
    found = resolvers(resolv_conf)
    assert found is not None
    assert (found.known_to_machine, found.known_to_host, found.forwarded) == (machines, hosts, forwarded)
