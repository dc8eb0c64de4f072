# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a site says of a vacuum pipe, whatever is in it. Pure."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, unknown_option
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import machinetype_keys as keys
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype_keys import Unfit


@dataclass(frozen=True)
class Section:
    """What the site says about a pipe: the section ``[vacuum_pipe PREFIX]`` of Vac's configuration.

    :ivar prefix: machinetypes are called ``PREFIX-SUFFIX``.
    :ivar target_share: what the machinetypes of the pipe are to have of the space together.
    :ivar options: by key, checked values for every machinetype of the pipe. They precede the pipe's (spec 2.4).
    :ivar machinetypes: by name, likewise for one of them, the share among them. These precede all others.
    """

    prefix: str
    target_share: float = 0.0
    options: t.Mapping[str, t.Any] = field(default_factory=dict)
    machinetypes: t.Mapping[str, t.Mapping[str, t.Any]] = field(default_factory=dict)

    @classmethod
    def checked(
        cls, prefix: str, target_share: t.Any = 0.0, options: t.Optional[t.Mapping[str, t.Any]] = None
    ) -> Section:
        """Check what an operator wrote.

        :param options: keys as in a pipe, and ``machinegroup``; values as in a pipe.
        :raises InputError: with the path ``vacuum_pipe.PREFIX.KEY``.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", prefix):
            expected = "a prefix of 1 to 31 lower-case letters, digits and hyphens that does not begin with a hyphen"
            raise InputError("vacuum_pipe", prefix, expected)
        where = f"vacuum_pipe.{prefix}"
        share = cls._check(where, "target_share", target_share)
        values = {}
        for key, value in (options or {}).items():
            if not isinstance(key, str) or key == "target_share" or not keys.is_key(key):
                raise unknown_option(f"{where}.{key}", {*keys.KEYS, *keys.SUBSTITUTIONS} - {"target_share"})
            values[key] = cls._check(where, key, value)
        for problem in keys.conflicts(values):
            raise InputError(f"{where}.{problem.key}", values[problem.key], problem.expected)
        return cls(prefix, share, values)

    @staticmethod
    def _check(where: str, key: str, value: t.Any) -> t.Any:
        try:
            return keys.check(key, value)
        except Unfit as exc:
            # The value of a substitution may be a password that the site puts into its machines.
            told = "a value that is not shown" if key.startswith("user_data_option_") else value
            raise InputError(f"{where}.{key}", told, str(exc)) from None

    def said_of(self, name: str) -> dict[str, t.Any]:
        """What the site says of a machinetype. A pipe's values of these keys count for nothing."""
        return keys.over(self.machinetypes.get(name, {}), self.options)
