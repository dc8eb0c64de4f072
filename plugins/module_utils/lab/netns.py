# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Named network namespaces, through the ``ip`` command: list them, make and remove them, look at their links.

The empty name stands for the namespace this process is in.
"""

from __future__ import annotations

import json
import os
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run
from ansible_collections.hep.gridbox.plugins.module_utils.host.netns import FOLDER

#: How long processes are in a namespace before they count as living there, in seconds.
VISIT_SECONDS = 2


def path_of(name: str) -> str:
    """The file that stands for a named namespace."""
    return f"{FOLDER}/{name}"


def exists(name: str) -> bool:
    """Whether the name is a namespace; a plain file left behind by a killed ``ip netns add`` is not."""
    # A namespace's file lies on nsfs, like every /proc/*/ns entry.
    try:
        return os.stat(path_of(name)).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def names() -> list[str]:
    """All named namespaces."""
    if not os.path.isdir(FOLDER):
        return []
    return sorted(name for name in os.listdir(FOLDER) if exists(name))


def add(name: str) -> None:
    """Make a namespace with its loopback up.

    :raises GridboxError: if there is one of that name.
    """
    run(f"Making network namespace {name}", ["ip", "netns", "add", name])
    ip(f"Setting up the loopback of {name}", name, "link", "set", "lo", "up")


def delete(name: str) -> None:
    """Remove a namespace's name, and the namespace with the last process in it; fine if it is gone."""
    if os.path.exists(path_of(name)):
        run(f"Removing network namespace {name}", ["ip", "netns", "delete", name])


def forget_folder() -> None:
    """Take away the empty folder of names, and its mount: ``ip netns add`` makes both when they are not there."""
    if not os.path.isdir(FOLDER) or os.listdir(FOLDER):
        return
    try:
        while _is_mounted(FOLDER):
            run(f"Unmounting {FOLDER}", ["umount", FOLDER])
        os.rmdir(FOLDER)
    except (GridboxError, OSError):
        if not os.path.isdir(FOLDER) or os.listdir(FOLDER):
            return  # Somebody else has made a namespace meanwhile, or took the folder away.
        raise


def processes_in(name: str) -> list[str]:
    """The processes in a namespace, as ``name (pid)``."""
    found = []
    for pid in run(f"Looking for processes in {name}", ["ip", "netns", "pids", name]).split():
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                found.append(f"{file.read().strip()} ({pid})")
        except FileNotFoundError:
            continue  # it has ended meanwhile
    return found


def staying_in(name: str) -> list[str]:
    """The processes in a namespace, if it is not empty at any time within :data:`VISIT_SECONDS`.

    Whoever looks at all namespaces, as another LAN does before it changes its own, is in this one for a moment.
    """
    deadline = time.monotonic() + VISIT_SECONDS
    there = processes_in(name)
    while there and time.monotonic() < deadline:
        time.sleep(0.05)
        there = processes_in(name)
    return there


def ip(request: str, name: str, *arguments: str) -> str:
    """Run ``ip`` in a namespace.

    :param request: what is done, in words, for the error.
    """
    inside = ["-n", name] if name else []
    return run(request, ["ip", *inside, *arguments])


def links(name: str) -> dict[str, dict[str, t.Any]]:
    """The links of a namespace by name, each with its ``addr_info``, as ``ip -json`` prints them."""
    text = ip(f"Listing the links of {name or 'this machine'}", name, "-json", "-details", "address", "show")
    return {link["ifname"]: link for link in json.loads(text or "[]") if link}


def _is_mounted(path: str) -> bool:
    # os.path.ismount() does not see a folder that is mounted over itself, as this one is.
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return any(line.split()[4] == path for line in file)
