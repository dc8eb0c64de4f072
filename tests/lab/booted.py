# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A fleet for the tests of a file."""

from __future__ import annotations

import contextlib
import os
import typing as t

import pytest

from tests.lab.fleet import Fleet, parse


@contextlib.contextmanager
def booted(what: str, *hosts: str) -> t.Iterator[Fleet]:
    """A fleet that is up, and is stopped when the block is left, whatever became of it.

    :param what: in its name.
    :param hosts: in the words of its command line.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, control groups, a LAN for the hosts")
    made = Fleet(f"gbt{os.getpid()}-{what}")
    try:
        made.start(parse(hosts))
        yield made
    finally:
        made.stop()
