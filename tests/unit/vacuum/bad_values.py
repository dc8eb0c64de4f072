# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values that keys of a machinetype cannot have."""

from __future__ import annotations

import math
import typing as t

_NOT_POSITIVE = (
    0, "0",
)  # fmt: skip
_NO_WHOLE_NUMBER = (
    "abc", "", -1, "-1", 1.5, "1.5", True, False, None, math.nan, math.inf, -math.inf, [1], {}, 10**18, "9" * 5000,
    "1_0", "٣", "0x10", 10**30,
)  # fmt: skip
_NO_FLAG = (
    "yes", "", 0, 1, None, [True], "truee",
)  # fmt: skip

BAD_VALUES: dict[str, tuple[t.Any, ...]] = {
    "suffix": (
        "", "Prod", "a_b", "a/b", "a b", "é", "a\n", 59 * "a", 5, None, ["a"], "../x",
    ),
    "machine_model": (
        "vm", "Docker", "", 1, None, ["docker"], "docker\n",
    ),
    "target_share": (
        "x", -1, True, None, math.nan, math.inf, "nan", "inf", "1e999", [1], 2e9, "",
    ),
    "root_image": (
        "", "busybox", "docker://", "docker://Busybox", "docker://a b", "docker://a;touch x", "docker://$(x)",
        "docker://a:", "docker://-v", "docker://--privileged", "docker:///etc", "docker://a/../b",
        "docker://a@sha256:12", "docker://a\n", "docker://" + 64 * "a", "docker://sha256:" + 64 * "a",
        "docker://" + 600 * "a", "file:///etc", "/etc", 5, None, ["docker://a"], "docker://https://x/y",
        "docker://user@host/a", "docker://a\x00", "/cvmfs/a.example.org/../b", "/cvmfs/a.example.org/b,c",
    ),
    "user_data": (
        "", "/etc/passwd", "../x", "a/b", ".", "..", ".hidden", "file:///etc/passwd", "ftp://a/b", "https://",
        "https:///x", "https://a/b c", "https://a/../b", "https://u:p@a/b", "https://a/b#c", "https://a/\nb",
        "HTTPS://a/b", "-o", 5, None, ["a"], "https://a/" + 2048 * "b", "https://a/é", "https://a/`x`",
        "https://a/..",
    ),
    "container_command": (
        "", " ", [], "/user_data; touch /tmp/x; echo", "/user_data && x", "/user_data | x", "/user_data $(x)",
        "/user_data `x`", "/user_data\ntouch x", "/user_data > /x", "/user_data 'a b'", '/user_data "a"',
        "/user_data $X", "/user_data \\x", "-v", "/user_data *", ["/user_data; touch x"], ["$(x)"], ["-v"], [""],
        [5], ["/a", 5], ["/a", None], ["/a", "b\x00"], ["/a", "b\nc"], ["/a", "\x1b[2J"], ["/a", "\x85"],
        ["/a", "\ud800"], ["/a", 1025 * "b"], ["/a"] * 65, 5, None, {"a": 1}, [["/a"]], "//a", "/",
        "/user_data\t-x",
    ),
    "cvmfs_repositories": (
        "lhcb", "a/b.ch", "../cern.ch", ".cern.ch", "cern.ch.", "LHCB.cern.ch", "-a.cern.ch", "a..ch",
        ["a.cern.ch b.cern.ch"], [5], 5, None, "a.cern.ch;b.cern.ch", ["a.cern.ch\n"], 60 * "a" + ".ch",
        [f"a{number}.cern.ch" for number in range(65)], {"a.cern.ch": 1}, ["."], [".."],
    ),
    "tmp_binds": (
        "/", "scratch", "./a", "/a/..", "/a/../etc", "/a/.", "/a/", "//a", "/a//b", "/a:/b", "/a:ro", "/a,b",
        "/a;b", "/$(x)", ["/a b"], ["/a\n"], "/cvmfs", "/cvmfs/lhcb.cern.ch", "/proc", "/proc/1", "/sys", "/dev",
        "/dev/shm", "/user_data", "/user_data/x", "/etc", "/etc/machinefeatures", "/etc/machinefeatures/x",
        "/etc/jobfeatures", "/var", "/var/spool", "/var/spool/joboutputs", "/var/spool/joboutputs/x", "/run",
        "/sbin", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/var/run", "/usr", "/é", "/" + 255 * "a",
        [f"/a{number}" for number in range(17)], [5], 5, None, [None],
    ),
    "heartbeat_file": (
        "", "a/b", "..", ".", ".x", "a b", 5, None, 101 * "a", "a\n", "-f", "a;b",
    ),
    "accounting_fqan": (
        "", "lhcb", "/", "/lhcb Role", "/lhcb/Role=", "/lhcb\n", 5, None, "/" + 255 * "a", "/lhcb/Role=a;b", "//",
    ),
    "user_data_option_x": (
        None, [1], {}, math.nan, math.inf, "\x00", "\x1b", "\ud800", 16385 * "a",
    ),
    "user_data_file_x": (
        "", "/etc/passwd", "../x", "..", ".", ".x", 5, None, "a/b", "a\x00",
    ),
    "min_processors": (*_NOT_POSITIVE, *_NO_WHOLE_NUMBER),
    "max_processors": (*_NOT_POSITIVE, *_NO_WHOLE_NUMBER),
    "min_wallclock_seconds": (*_NOT_POSITIVE, *_NO_WHOLE_NUMBER),
    "max_wallclock_seconds": (*_NOT_POSITIVE, *_NO_WHOLE_NUMBER),
    "disk_gb_per_processor": (*_NOT_POSITIVE, *_NO_WHOLE_NUMBER),
    "backoff_seconds": _NO_WHOLE_NUMBER,
    "fizzle_seconds": _NO_WHOLE_NUMBER,
    "heartbeat_seconds": _NO_WHOLE_NUMBER,
    "user_data_proxy": _NO_FLAG,
    "legacy_proxy": _NO_FLAG,
}  # fmt: skip

#: Key and value.
BAD = [(key, value) for key, values in BAD_VALUES.items() for value in values]
