# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which image a factory pulls next. Pure.

A registry that does not answer, or that lets its answer drip, costs minutes for each image. So neither a registry nor a
pipe ever has all pulls for itself, who has the least at work comes first, and of those whoever was tried the longest
ago: an image has its turn whatever a pipe or two name beside, and in whatever order the names are.
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass

#: Pulls at a time, for workers are for machines first; and those of them that one registry, or one pipe, may have.
PULLS, OF_ONE = 4, 2

#: Seconds: until a pull that failed is tried again, at first, and at most. It doubles with each failure in a row.
PULL_AGAIN, PULL_AGAIN_MOST = 60, 600


@dataclass(frozen=True)
class Wish:
    """An image that is to be pulled, or is being pulled.

    :ivar pipes: prefixes of the pipes that name it; empty: the site itself does, and may have all pulls.
    :ivar tried: when it was last tried; of one that never was that is before all others.
    """

    reference: str
    pipes: frozenset[str] = frozenset()
    tried: float = -math.inf


def pause(failures: int) -> float:
    """Seconds after so many failures of an image in a row, of which there is one at least."""
    return float(min(PULL_AGAIN * 2 ** min(failures - 1, 16), PULL_AGAIN_MOST))


def next_pulls(due: t.Collection[Wish], at_work: t.Iterable[Wish]) -> list[Wish]:
    """Those of the images that are due that are pulled from now on."""
    working = list(at_work)
    before, left = len(working), set(due)
    while left and len(working) < PULLS:
        first = min(left, key=lambda one: (_load(one, working), one.tried, one.reference))
        if _load(first, working) >= OF_ONE:
            break
        left.remove(first)
        working.append(first)
    return working[before:]


def _load(wish: Wish, working: t.Sequence[Wish]) -> int:
    """How many pulls its registry has, or those pipes have that name it. One pipe cannot use up the pulls of another by
    naming the same image."""
    registry = registry_of(wish.reference)
    same = sum(registry_of(one.reference) == registry for one in working)
    return max(same, min((sum(pipe in one.pipes for one in working) for pipe in wish.pipes), default=0))


def registry_of(reference: str) -> str:
    """Where an image comes from: a registry or another server, or, of what is below ``/cvmfs``, the repository."""
    scheme, found, rest = reference.partition("://")
    if not found:
        scheme, rest = "docker", reference
    if rest.startswith("/"):
        return "/".join(rest.split("/")[:3])
    host, slash, _path = rest.partition("/")
    if scheme == "docker" and not (slash and (host == "localhost" or "." in host or ":" in host)):
        return "docker.io"
    if scheme == "library" and not (slash and "." in host):
        return "library"
    return host.lower()
