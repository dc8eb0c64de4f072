# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of a factory, as the code has them."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.factory import configuration


@dataclasses.dataclass(frozen=True)
class Option:
    """An option as the code has it. ``expected`` is what is said of a wrong value."""

    default: t.Any
    expected: str


class _Recorder(configuration._Reader):
    """Notes each option that is asked for."""

    def __init__(self, data: t.Mapping[str, t.Any]) -> None:
        super().__init__(data)
        self.options: dict[str, Option] = {}

    def take(self, key: str, default: t.Any, good: t.Callable[[t.Any], t.Any], expected: str) -> t.Any:
        assert key not in self.options, f"{key} is taken twice"
        self.options[key] = Option(default, expected)
        return super().take(key, default, good, expected)


def options_of_the_code() -> dict[str, Option]:
    recorder = _Recorder({"name": "f1.example.org", "space": "vac01.example.org"})
    configuration._read(recorder)
    recorder.end()
    return recorder.options
