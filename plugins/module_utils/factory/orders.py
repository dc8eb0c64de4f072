# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What operators order of a factory for the time being, beside its configuration: a file that vanishes at reboot.

It is what ``/var/run/vac.conf`` is to Vac (spec 2.1): the overlay for ``shutdown_time`` and ``draining`` before a
reboot, after which the host works as it is configured again. And by slot: nothing new is started, the machine has to
end, or one machinetype only is started.

``gridbox`` and ``vacuum_slot`` write it, one at a time; the daemon reads it, and so does who works without a daemon.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import typing as t
from dataclasses import asdict, dataclass, field, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.json_types import read
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import with_former
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import remove_neighbours, write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.lock import Lock
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings, Forced

#: Only root can write there, and a boot empties it.
FOLDER = "/run/hep.gridbox"

DRAINED, STOPPED = "drained", "stopped"

#: Seconds to wait for another who gives orders: it is one small file.
_SECONDS = 30


@dataclass(frozen=True)
class SlotOrder:
    """What was ordered of a slot.

    :ivar state: ``drained``: nothing new is started; ``stopped``: its machine ends, too; empty: it works.
    :ivar machinetype: the only one that is started there, if it works; empty: the factory chooses.
    :ivar since: when it was ordered, Unix seconds.
    """

    state: str = ""
    machinetype: str = ""
    since: int = 0

    @property
    def text(self) -> str:
        """For people: one or two words."""
        return self.state or (f"only {self.machinetype}" if self.machinetype else "")

    @property
    def of_former(self) -> SlotOrder:
        """What of it is ordered of a slot that the factory has no more. Nothing is started there anyway, and who
        configures the slot again is not to find it drained by what was meant for the last machine in it."""
        return self if self.state == STOPPED else NONE


#: What a slot has of which nothing was ordered.
NONE = SlotOrder()


@dataclass(frozen=True)
class Orders:
    """All that was ordered of a factory.

    :ivar draining: start nothing.
    :ivar shutdown_time: when all machines have to be gone, Unix seconds; None: as the configuration says.
    :ivar slots: by slot; one of which nothing was ordered is not in it.
    """

    draining: bool = False
    shutdown_time: t.Optional[int] = None
    slots: t.Mapping[str, SlotOrder] = field(default_factory=dict)

    def of(self, slot: str) -> SlotOrder:
        """What was ordered of a slot."""
        return self.slots.get(slot, NONE)

    def with_slots(self, slots: t.Iterable[str], order: SlotOrder) -> Orders:
        """The same with another order for these slots.

        :param order: :data:`NONE`: none.
        """
        return self.changed(dict.fromkeys(slots, order))

    def changed(self, wanted: t.Mapping[str, SlotOrder]) -> Orders:
        """The same with other orders for slots.

        :param wanted: by slot; :data:`NONE`: none.
        """
        slots = {**self.slots, **wanted}
        given = {slot: order for slot, order in sorted(slots.items()) if order.state or order.machinetype}
        return replace(self, slots=given)

    def over(self, settings: FactorySettings) -> FactorySettings:
        """The settings with the orders over them. Pure.

        An order cannot take back what the configuration says of draining; its ``shutdown_time`` precedes.
        """
        closed = {slot for slot, one in self.slots.items() if one.state}
        return replace(
            settings,
            draining=settings.draining or self.draining,
            shutdown_time=settings.shutdown_time if self.shutdown_time is None else self.shutdown_time,
            closed_slots=frozenset(closed),
            stopped_slots=frozenset(slot for slot, one in self.slots.items() if one.state == STOPPED),
            forced={
                slot: Forced(one.machinetype, one.since)
                for slot, one in self.slots.items()
                if one.machinetype and not one.state
            },
        )

    def sentences(self, when: t.Callable[[float], str]) -> list[str]:
        """For people: one sentence for each thing that is ordered.

        :param when: a time in words.
        """
        told = ["the factory is draining"] if self.draining else []
        if self.shutdown_time is not None:
            told.append(f"shutdown_time is {when(self.shutdown_time)}")
        by_text: dict[str, list[str]] = {}
        for slot, one in self.slots.items():
            by_text.setdefault(one.text, []).append(slot)
        return told + [f"{text}: {', '.join(slots)}" for text, slots in sorted(by_text.items())]

    def as_data(self) -> dict[str, t.Any]:
        """As JSON types."""
        return asdict(self)


def path_of(state_folder: str) -> str:
    """Where the orders to the factory are that keeps its state there."""
    known_by = hashlib.sha256(os.path.realpath(state_folder).encode()).hexdigest()[:16]
    return f"{FOLDER}/orders-{known_by}.json"


def change(state_folder: str, changed: t.Callable[[Orders], Orders]) -> Orders:
    """Change what is ordered: one at a time, and nothing is written where nothing changes.

    :param changed: makes the orders as they are to be from those that there are.
    :returns: all that is ordered now.
    :raises GridboxError: if that cannot be done.
    """
    with _alone(state_folder, _SECONDS):
        before = load(state_folder)
        orders = changed(before)
        if orders != before:
            save(state_folder, orders)
    return orders


def from_data(data: t.Any) -> Orders:
    """Orders from JSON types.

    :raises ValueError: if they are none; or TypeError.
    """
    made = t.cast("Orders", read(Orders, data))
    for slot, one in made.slots.items():
        if one.state not in ("", DRAINED, STOPPED):
            raise ValueError(f"{one.state!r:.60} is no state that {slot} can be ordered to have")
    return made


def load(state_folder: str) -> Orders:
    """The orders to the factory that keeps its state there.

    :raises GridboxError: if the file is there and cannot be read.
    """
    path = path_of(state_folder)
    try:
        with open(path, encoding="utf-8") as file:
            return from_data(json.load(file))
    except FileNotFoundError:
        return Orders()
    except OSError as exc:
        raise GridboxError(f"The orders to the factory, {path}, cannot be read ({exc.strerror}).") from exc
    except (ValueError, TypeError, RecursionError) as exc:
        remedy = "Remove the file: the factory then works as it is configured."
        raise GridboxError(f"{path} holds no orders to a factory ({exc}). {remedy}") from exc


def save(state_folder: str, orders: Orders) -> None:
    """Give these orders from now on; a reader sees those before or these, nothing between.

    :raises GridboxError: if they cannot be written.
    """
    path = path_of(state_folder)
    try:
        if orders == Orders():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        os.makedirs(FOLDER, mode=0o755, exist_ok=True)
        write_atomically(path, (json.dumps(orders.as_data(), indent=1) + "\n").encode(), 0o600)
    except OSError as exc:
        raise GridboxError(
            f"The orders to the factory, {path}, cannot be written ({exc.strerror}). Only root can give them."
        ) from exc


def remove_unfinished(state_folder: str) -> None:
    """Remove orders that somebody was killed over before he had given them. Those that somebody is just giving stay.

    :raises OSError: if they cannot be.
    :raises GridboxError: if it cannot be told whether somebody is.
    """
    with contextlib.suppress(FileNotFoundError), _alone(state_folder, 0):
        remove_neighbours(path_of(state_folder))


def _alone(state_folder: str, seconds: float) -> Lock:
    return Lock(f"the orders to the factory in {os.path.realpath(state_folder)}", seconds)


def former_slots(configuration: Configuration) -> tuple[str, ...]:
    """Slots that the factory has no more, in which a machine has not ended, by its record, or of which something is
    ordered.

    :raises GridboxError: if what is ordered cannot be read.
    """
    slots = configuration.settings.slots
    last, unread = Store(configuration.state_folder).last()
    return with_former(slots, last.values(), {*unread, *load(configuration.state_folder).slots})[len(slots) :]


def slots_of(
    settings: FactorySettings, given: t.Sequence[str], option: str = "slots", former: t.Sequence[str] = ()
) -> tuple[str, ...]:
    """The slots that are meant, in the factory's order.

    :param given: names, names without the domain, or numbers; or ``all``, alone.
    :param option: where they are from, for the error.
    :param former: that the factory has no more, and that may be meant too. Where it has a slot of the same number, that
        is meant by it.
    :raises InputError: for one that the factory has not, or if none is named.
    """
    slots = (*settings.slots, *former)
    if list(given) == ["all"]:
        return slots
    known: dict[str, str] = {}
    for slot in slots:
        short = slot.partition(".")[0]
        for name in (slot, short, _plain(short.rpartition("-")[2])):
            known.setdefault(name, slot)
    meant = set()
    for one in given:
        # A number as people write it: f1-03 is slot 3, and 03 too.
        plain = _plain(one) if one.isdigit() else one.lower()
        if plain not in known:
            some = f"{settings.slots[0]} to {settings.slots[-1]}, or 0 to {len(settings.slots) - 1}"
            more = f"; {', '.join(former)}, which it has no more" if former else ""
            raise InputError(option, one, f"a slot of {settings.name}: {some}{more}; or all, alone")
        meant.add(known[plain])
    if not meant:
        raise InputError(option, list(given), "slots of the factory; or all")
    return tuple(slot for slot in slots if slot in meant)


def _plain(number: str) -> str:
    return number.lstrip("0") or "0"
