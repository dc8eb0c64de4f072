# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What to do about a VO-box that does not run, or is not well. Pure.

An engine that cannot start a container when it comes up itself, or when it restarts one, leaves it at that: its restart
policy is for containers that end, not for those that cannot begin (moby/moby#39559, #18826). It notes why in the
container's ``State.Error``. A container that somebody has stopped, or that has ended by itself, has no such note; so
the note is what tells the one from the other, whatever the policy.

Nor does an engine know of a swap that a power cut has ended. Then the one before has been stopped by request, or has no
network, and the new one has no restart policy yet: the boot brings neither back, and nothing is noted. What tells that
case are the containers that the swap has left. And a restart that was cut short looks like a stop by somebody; a note
tells it (:mod:`..vobox.restart`).
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.engine.dropped_network import dropped_network
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.restart import CUT_SHORT

#: Restart policies that promise that a container runs.
_PROMISES = ("always", "unless-stopped", "on-failure")

#: Seconds until the next try after the first that failed; twice as many after each further one, to the limit.
_PAUSE, _LONGEST_PAUSE = 60.0, 1800.0


@dataclass(frozen=True)
class Network:
    """A network of a VO-box.

    :ivar there: whether the engine has it.
    :ivar parent: the link it is on; empty if it is on none.
    :ivar parent_state: ``up``, ``down`` or ``missing``.
    """

    name: str
    there: bool = True
    parent: str = ""
    parent_state: str = "up"


@dataclass(frozen=True)
class Cvmfs:
    """The CVMFS that a VO-box is to see.

    :ivar root: folder of the host that is mounted in the VO-box.
    :ivar follows: whether the VO-box also gets what is mounted later below the root.
    :ivar missing: mount points at and below the root that the host is to have, by its units, and has not.
    """

    root: str
    follows: bool = True
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Box:
    """One VO-box's container as it is.

    While there are leftovers, it is the container that the VO-box was before the swap.

    :ivar status: the engine's word: ``running``, ``exited``, ``created``, ``paused``...; ``gone`` if there is none.
    :ivar error: why the engine could not start it, at the last try; empty if it could.
    :ivar health: ``healthy``, ``unhealthy``, ``starting``; ``none`` without a check.
    :ivar cut_short: whether it is stopped because a restart of it was cut short.
    :ivar leftovers: containers of an interrupted swap that is to be taken back.
    :ivar unretired: the container that it has replaced, if the swap was interrupted before that was stopped for good.
    :ivar lacking: files and folders that are to be mounted in it, and are not there.
    """

    name: str
    id: str
    status: str
    policy: str
    error: str = ""
    health: str = "none"
    grace: int = 10
    cut_short: bool = False
    leftovers: tuple[str, ...] = ()
    unretired: t.Optional[str] = None
    networks: tuple[Network, ...] = ()
    lacking: tuple[str, ...] = ()
    cvmfs: t.Optional[Cvmfs] = None


@dataclass(frozen=True)
class Past:
    """What was tried before.

    :ivar tries: starts, restarts and recoveries since the VO-box was last well.
    :ivar at: when the last one was, in seconds since the boot.
    """

    tries: int = 0
    at: float = 0.0

    @property
    def next_at(self) -> float:
        """When the next try is due."""
        return self.at + min(_PAUSE * 2 ** (self.tries - 1), _LONGEST_PAUSE) if self.tries else 0.0

    def pause(self, now: float) -> str:
        """How long until then, for people."""
        return f"next try in {self.next_at - now:.0f} s, after {self.tries} that failed"


@dataclass(frozen=True)
class Rules:
    """What the operator wants.

    :ivar leave: names of VO-boxes that are not touched.
    :ivar restart_unhealthy: whether one that its health check finds unhealthy is restarted.
    """

    leave: frozenset[str] = field(default_factory=frozenset)
    restart_unhealthy: bool = False


@dataclass(frozen=True)
class Finding:
    """One VO-box, and what follows.

    :ivar action: ``none``; ``start`` or ``restart``; ``recover``: take a swap that was interrupted back, or finish it;
        ``wait``: something is not there yet; ``later``: the last try failed a short while ago; ``leave``: nothing here
        may change it.
    :ivar well: whether the VO-box is as it should be, as far as it is this program's matter.
    """

    name: str
    action: str
    reason: str = ""
    well: bool = False

    def as_data(self) -> dict[str, t.Any]:
        """As JSON types."""
        return dict(self.__dict__)


def decide(box: Box, past: Past, rules: Rules, now: float, patient: bool) -> Finding:
    """What to do about one VO-box now.

    :param now: seconds since the boot.
    :param patient: whether there is still time to wait for what it could do without at first.
    """
    if box.name in rules.leave:
        return Finding(box.name, "none", well=True)
    if box.status == "removing":
        return Finding(box.name, "none", well=True)  # the engine is at it
    if box.status == "paused":
        return Finding(box.name, "leave", "it is paused", well=True)
    if _interrupted(box):
        return _recover(box, past, now, patient)
    if box.status == "running":
        return _running(box, past, rules, now)
    if box.status == "restarting":
        return Finding(box.name, "none", well=True)  # the engine is at it
    if box.policy not in _PROMISES or not (box.error or box.cut_short):
        return Finding(box.name, "none", well=True)  # stopped by somebody, or ended by itself
    awaited = _awaited(box, patient)
    if awaited:
        return Finding(box.name, "wait", f"it waits for {'; '.join(awaited)}")
    if now < past.next_at:
        return Finding(box.name, "later", f"{explain(box.error) or CUT_SHORT}; {past.pause(now)}")
    later = _comes_later(box)
    poor = f"; without {', '.join(later)}, which it gets when mounted" if later else ""
    why = f"the engine could not start it, and does not try again: {box.error}" if box.error else CUT_SHORT
    return Finding(box.name, "start", f"{why}{poor}")


def well_again(box: Box) -> bool:
    """Whether the tries before do not count any more."""
    return box.status == "running" and box.health in ("none", "healthy") and not _interrupted(box)


def explain(error: str) -> str:
    """The engine's words, and what to do where they do not say it."""
    dropped = dropped_network(error)
    if dropped:
        return (
            f"{error.strip()}. The engine dropped the network {dropped} when it started, for the network's parent"
            " link was not there then. It looks again only when it starts: restart it (systemctl restart docker)."
            " With live restore no running container notices"
        )
    return error.strip()


def _interrupted(box: Box) -> bool:
    """Whether a swap is to be taken back, or to be finished.

    Only where the new one runs the replaced one may be stopped: a person may have gone back to it by hand.
    """
    return bool(box.leftovers) or (box.unretired is not None and box.status == "running")


def _recover(box: Box, past: Past, now: float, patient: bool) -> Finding:
    left = f"a swap that was interrupted has left {' and '.join(box.leftovers) or box.unretired}"
    awaited = _awaited(box, patient) if box.leftovers else []
    if awaited:
        return Finding(box.name, "wait", f"it waits for {'; '.join(awaited)}; {left}")
    if now < past.next_at:
        return Finding(box.name, "later", f"{left}; {past.pause(now)}")
    return Finding(box.name, "recover", left)


def _running(box: Box, past: Past, rules: Rules, now: float) -> Finding:
    if box.health != "unhealthy":
        return Finding(box.name, "none", well=True)
    if not rules.restart_unhealthy:
        return Finding(box.name, "leave", "it is unhealthy; restarting such VO-boxes is switched off", well=True)
    if now < past.next_at:
        return Finding(box.name, "later", f"it is unhealthy; next restart in {past.next_at - now:.0f} s")
    return Finding(box.name, "restart", "its health check finds it unhealthy")


def _awaited(box: Box, patient: bool) -> list[str]:
    """What the VO-box cannot start without, in words."""
    awaited = []
    for network in box.networks:
        if not network.there:
            awaited.append(f"the network {network.name}, which the engine does not have: run hep.gridbox.vobox")
        elif network.parent and network.parent_state != "up":
            state = "is not there" if network.parent_state == "missing" else "is down"
            awaited.append(f"the link {network.parent}, which {state}")
    awaited += [f"{path}, which is not there" for path in box.lacking]
    if box.cvmfs is not None and box.cvmfs.missing and (patient or not _comes_later(box)):
        awaited.append(f"{', '.join(box.cvmfs.missing)}, which is not mounted")
    return awaited


def _comes_later(box: Box) -> tuple[str, ...]:
    """The missing repositories, if they, and nothing else of CVMFS, come into the running VO-box when mounted."""
    cvmfs = box.cvmfs
    return cvmfs.missing if cvmfs is not None and cvmfs.follows and cvmfs.root not in cvmfs.missing else ()
