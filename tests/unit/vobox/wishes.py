# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A complete set of the module's parameters, as Ansible hands them over, for tests to vary."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import Wish

NOTHING: dict[str, t.Any] = {
    "name": "vobox1", "state": "started", "image": None, "hostname": None, "network": None, "init_script": None,
    "init_script_version": None, "cvmfs": None, "host_certificate": None, "volumes": None, "limits": None,
    "privileges": None, "log": None, "restart_policy": None, "health": None, "services": None, "command": None,
    "environment": None, "labels": None, "dns": None, "sysctls": None, "stop_timeout": None,
    "swap": {"strategy": "overlap", "health_timeout": 120, "keep_previous": False}, "wire_check": True,
    "files": "/var/lib/hep.gridbox/voboxes",
}  # fmt: skip

NETWORK: dict[str, t.Any] = {"name": "site", "ipv4": "10.0.0.10", "ipv6": "fd00::10", "mac": None}

LIMITS: dict[str, t.Any] = dict.fromkeys(
    ("nofile", "nproc", "core", "memlock", "pids", "memory", "memory_swap", "cpus", "shm_size")
)

SCRIPT = "#!/bin/sh\nhttpd\n"


def wish(**changes: t.Any) -> Wish:
    """What is asked for when only these options are given."""
    return Wish.from_params({**NOTHING, **changes})


def new_box(**changes: t.Any) -> Wish:
    """A VO-box with all that is needed to create it."""
    given = {"image": "voboximg:el9", "hostname": "vobox1.example.org", "network": NETWORK, "init_script": SCRIPT}
    return wish(**{**given, **changes})
