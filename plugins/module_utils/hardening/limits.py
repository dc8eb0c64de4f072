# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much of each shared thing a host with so many VO-boxes needs. Pure.

Containers on one host share what the kernel counts per user or once for all: without a user namespace of their own,
root in VO-box 1 and root in VO-box 5 are one user. The limit of open files is per process and does not add up; the
likeliest form of "no more than two VO-boxes" today is the 128 inotify instances per user.

The formula is the same for all: *share of the host itself + share of a VO-box x number of VO-boxes*, never less than
the kernel has already. The shares:

=================================  ==========  ===============  ====================================================
sysctl                             host        each VO-box      why
=================================  ==========  ===============  ====================================================
fs.inotify.max_user_instances      256         256              per user; systemd, cron and the batch client in a
                                                                VO-box hold some 20 to 60; room for 4 times as many
fs.inotify.max_user_watches        262144      131072           per user; two VO-boxes then have what ALICE sites set
fs.file-max                        1048576     1048576          once for all: one process of each at its own limit
kernel.pid_max                     65536       65536            once for all; 4194304 is the kernel's most
kernel.keys.maxkeys                200         200              per user; the kernel's default for each
kernel.keys.maxbytes               20000       20000            per user; the kernel's default for each
net.ipv[46].neigh.default          2 x peers   2 x peers        one table for all namespaces; each VO-box talks to every
  .gc_thresh3                                                   machine of the LAN; gc_thresh2 is half, gc_thresh1 a
                                                                quarter of it
nproc (limits.d)                   8192        8192             per user
=================================  ==========  ===============  ====================================================
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

#: fs.nr_open and the kernel's own bound of pid_max on 64 bits (kernel/pid.c, PID_MAX_LIMIT).
PID_MAX_LIMIT = 4194304

#: Control to its sysctls: share of the host, share of a VO-box.
SHARES: dict[str, dict[str, tuple[int, int]]] = {
    "inotify": {
        "fs.inotify.max_user_instances": (256, 256),
        "fs.inotify.max_user_watches": (262144, 131072),
    },
    "file_max": {"fs.file-max": (1048576, 1048576)},
    "pid_max": {"kernel.pid_max": (65536, 65536)},
    "keys": {"kernel.keys.maxkeys": (200, 200), "kernel.keys.maxbytes": (20000, 20000)},
}

#: Parts of gc_thresh3.
NEIGHBOUR_PARTS = {"gc_thresh1": 4, "gc_thresh2": 2, "gc_thresh3": 1}

NPROC_SHARES = (8192, 8192)


@dataclass(frozen=True)
class Need:
    """What a host needs.

    :ivar sysctls: by control, then by name.
    :ivar least: the same by the formula alone, whatever the kernel has more of.
    :ivar nofile: soft and hard limit of open files per process.
    :ivar nproc: limit of processes per user.
    """

    sysctls: t.Mapping[str, t.Mapping[str, int]]
    least: t.Mapping[str, t.Mapping[str, int]]
    nofile: tuple[int, int]
    nproc: int


def neighbour_names() -> list[str]:
    """The sysctls of the neighbour tables."""
    return [f"net.{family}.neigh.default.{name}" for family in ("ipv4", "ipv6") for name in NEIGHBOUR_PARTS]


def all_names() -> list[str]:
    """Every sysctl that :func:`need` may set."""
    return [name for names in SHARES.values() for name in names] + neighbour_names()


def need(voboxes: int, lan_peers: int, nofile: tuple[int, int], current: t.Mapping[str, int]) -> Need:
    """Work out what a host needs.

    :param voboxes: how many VO-boxes it is to carry, 0 or more.
    :param lan_peers: machines on the LAN that a VO-box talks to.
    :param current: the kernel's values now; a value is never lowered. A missing name counts as 0.
    """
    least = {
        control: {name: host + each * voboxes for name, (host, each) in shares.items()}
        for control, shares in SHARES.items()
    }
    least["pid_max"]["kernel.pid_max"] = min(least["pid_max"]["kernel.pid_max"], PID_MAX_LIMIT)
    most = max(2 * lan_peers * (1 + voboxes), 1024)
    least["neighbours"] = {
        f"net.{family}.neigh.default.{name}": most // part
        for family in ("ipv4", "ipv6")
        for name, part in NEIGHBOUR_PARTS.items()
    }
    sysctls = {
        control: {name: max(current.get(name, 0), value) for name, value in names.items()}
        for control, names in least.items()
    }
    host, each = NPROC_SHARES
    return Need(sysctls, least, nofile, host + each * voboxes)
