# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An inventory of the factories of a vacuum space, asked by VacQuery from the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: vacuum_space
short_description: The factories of a vacuum space, and what they run
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Asks the factories of a space over VacQuery, real Vac's among them, and makes a host of each, whether it answers or not.
  - VacQuery is UDP, and a factory answers only addresses that it knows. The controller has to be one of its C(factories), or
    in its C(networks).
  - The file's name has to end in C(vacuum_space.yml) or C(vacuum_space.yaml).
  - Groups are the space, by its name, and what came of asking, C(vacuum_answered), C(vacuum_incomplete), C(vacuum_silent),
    C(vacuum_refused) and C(vacuum_unknown).
  - Variables of a host are C(vacuum_space), C(vacuum_state), C(vacuum_since) (since when no reply comes, Unix seconds),
    C(vacuum_factory), C(vacuum_machinetypes) by name, and C(vacuum_slots) by slot, the last three with the names that the
    protocol has. Texts in them may have been written by payloads, and are marked as unsafe.
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [hep.gridbox.vacuum_space]
  space:
    description: The space's name.
    type: str
    required: true
  factories:
    description:
      - The factories, as a factory's own configuration has them. FQDNs, or dictionaries with C(factory), the FQDN, C(host), the
        name or address to ask if that is another one, and C(port).
      - VacQuery does not tell who else is in the space, so all of them are listed.
    type: list
    elements: raw
    required: true
  key_file:
    description:
      - A file on the controller with the key of the space. Questions are signed with it, which factories whose configuration
        has C(signed_only) demand, and answers that are signed are checked with it.
      - An answer that is not signed, as those of a real Vac, is taken as it is.
    type: path
  timeout:
    description: Seconds that the factories have for their answers, in all.
    type: float
    default: 3
  slots_as_hosts:
    description:
      - Whether each slot becomes a host as well, in the group C(vacuum_slots), with the variables C(vacuum_factory_name) and
        C(vacuum_slot). They are containers without a login, for inventories that are only looked at.
      - A slot whose name is not one of its factory's is left out.
    type: bool
    default: false
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
"""

EXAMPLES = r"""
# vacuum_space.yml
plugin: hep.gridbox.vacuum_space
space: vac01.example.org
factories:
  - wn001.example.org
  - wn002.example.org
  - factory: wn003.example.org
    host: 192.0.2.13
groups:
  # Factories that run nothing.
  idle: vacuum_state == 'answered' and not vacuum_factory.running_machines
keyed_groups:
  # One group for each system that factories have.
  - prefix: os
    key: vacuum_factory.os_issue | default('unknown')
compose:
  ansible_user: "'root'"
"""

import asyncio
import typing as t

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import peers_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.version import PRODUCT
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import Budget, Result, poll
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import Key, load_key

#: By what a host has it as, the question.
_QUERIES = {"factory": "factory_query", "machinetypes": "machinetypes_query", "slots": "machines_query"}

#: What all replies have, and nobody asks of an inventory.
_ENVELOPE = ("cookie", "message_type", "method", "space", "factory", "site", "time_sent", "vacquery_version")

_STATES = ("answered", "incomplete", "silent", "refused", "unknown")


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """The plugin."""

    NAME = "hep.gridbox.vacuum_space"

    def verify_file(self, path: str) -> bool:
        """Whether a file is one of this plugin's."""
        return bool(BaseInventoryPlugin.verify_file(self, path)) and path.endswith(
            ("vacuum_space.yml", "vacuum_space.yaml")
        )

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        """Fill the inventory."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        self.load_cache_plugin()
        key = self.get_cache_key(path)
        use = bool(self.get_option("cache")) and cache
        try:
            found = self._cache[key] if use else self._ask(path)
        except KeyError:
            found = self._ask(path)
        if self.get_option("cache"):
            self._cache[key] = found
        self._populate(inventory, found)

    def _ask(self, path: str) -> dict[str, dict[str, t.Any]]:
        """By factory, what came of asking it; JSON types, for the cache."""
        try:
            peers = peers_of(self.get_option("factories"))
        except GridboxError as exc:
            raise AnsibleParserError(f"{path}: {exc}") from exc
        except (ValueError, TypeError, AttributeError):
            expected = "a list of FQDNs, or of dictionaries with factory, host and port"
            raise AnsibleParserError(
                f"{path}: factories: got {self.get_option('factories')!r}, expected {expected}."
            ) from None
        seconds = self.get_option("timeout")
        if not seconds > 0:
            raise AnsibleParserError(f"{path}: timeout: got {seconds!r}, expected seconds, more than 0.")
        try:
            key_file = self.get_option("key_file")
            key = load_key(key_file) if key_file else None
            results = asyncio.run(_poll(self.get_option("space"), peers, seconds, key))
        except GridboxError as exc:
            raise AnsibleParserError(f"{path}: {exc}") from exc
        return _as_data(results)

    def _populate(self, inventory: t.Any, found: t.Mapping[str, t.Mapping[str, t.Any]]) -> None:
        space, strict = self.get_option("space"), self.get_option("strict")
        group = inventory.add_group(self._sanitize_group_name(space))
        for state in _STATES:
            inventory.add_group(f"vacuum_{state}")
        for name, told in found.items():
            host = inventory.add_host(name, group)
            inventory.add_host(name, f"vacuum_{told['state']}")
            variables = {"vacuum_space": space, **{f"vacuum_{key}": wrap_var(value) for key, value in told.items()}}
            for key, value in variables.items():
                inventory.set_variable(host, key, value)
            self._construct(host, variables, strict)
            if self.get_option("slots_as_hosts"):
                self._slots(inventory, name, told["slots"], strict)

    def _slots(self, inventory: t.Any, factory: str, slots: t.Mapping[str, t.Any], strict: bool) -> None:
        group = inventory.add_group("vacuum_slots")
        short, domain = factory.split(".", 1)
        for name, slot in slots.items():
            begin, dot, end = name.lower().partition(".")
            if not dot or not begin.startswith(f"{short}-") or end != domain:
                continue  # a factory says what it likes, and may not speak of the inventory's other hosts
            variables = {"vacuum_factory_name": factory, "vacuum_slot": wrap_var(slot)}
            host = inventory.add_host(name, group)
            for key, value in variables.items():
                inventory.set_variable(host, key, value)
            self._construct(host, variables, strict)

    def _construct(self, host: str, variables: dict[str, t.Any], strict: bool) -> None:
        self._set_composite_vars(self.get_option("compose"), variables, host, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, host, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host, strict=strict)


async def _poll(space: str, peers: t.Sequence[Peer], seconds: float, key: t.Optional[Key]) -> dict[str, Result]:
    resolver = Resolver()
    results = await asyncio.gather(
        *(
            poll(query, space, peers, resolver, budget=Budget(seconds), key=key, version=PRODUCT)
            for query in _QUERIES.values()
        )
    )
    return dict(zip(_QUERIES, results))


def _as_data(results: t.Mapping[str, Result]) -> dict[str, dict[str, t.Any]]:
    found: dict[str, dict[str, t.Any]] = {}
    for name, outcome in results["factory"].outcomes.items():
        outcomes = {kind: result.outcomes[name] for kind, result in results.items()}
        replies = {
            kind: [
                {key: value for key, value in reply.as_data().items() if key not in _ENVELOPE} for reply in one.replies
            ]
            for kind, one in outcomes.items()
        }
        # A factory that has answered one of the questions only has answered incompletely.
        states = {one.state for one in outcomes.values()}
        whole = outcome.state if len(states) == 1 else "incomplete"
        found[name] = {
            "state": whole,
            "since": outcome.since,
            "factory": replies["factory"][0] if replies["factory"] else {},
            "machinetypes": {str(one["machinetype"]): one for one in replies["machinetypes"]},
            "slots": {str(one["machine"]): one for one in replies["slots"]},
        }
    return found
