# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine, its machinetype and its factory, for what a machine is told."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration, PipeSource
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings

#: Unix s: when the machine of the specification's listing was made (spec 5.3).
NOW = 1795187334


def machine(**changes: t.Any) -> Machine:
    """The one of the listing: 2 processors, 64 MiB and 10 HS06 each, 3600 s."""
    given: dict[str, t.Any] = {
        "uuid": "4c6c1f0e-3b0c-4d8e-9a39-6f2f5c1a7b10",
        "slot": "factory1-00.example.com",
        "machinetype": "lhcb-prod",
        "machine_model": "docker",
        "processors": 2,
        "created": NOW - 1,
        "shutdown_time": NOW + 3599,
        "memory_bytes": 134217728,
        "root_image": "example/image:1",
        "fizzle_seconds": 600,
        "hs06": 20.0,
    }
    return Machine(**{**given, **changes})


def configuration(**changes: t.Any) -> Configuration:
    given: dict[str, t.Any] = {
        "settings": FactorySettings("factory1.example.com", ("factory1-00.example.com",), 8),
        "space": "vac01.example.com",
        "pipes": (PipeSource(Section("lhcb"), "https://pipes.example.org/lhcb.pipe"),),
    }
    return Configuration(**{**given, **changes})


def machinetype(**changes: t.Any) -> Machinetype:
    given: dict[str, t.Any] = {"name": "lhcb-prod", "root_image": "example/image:1", "user_data": "template"}
    return Machinetype(**{**given, **changes})
