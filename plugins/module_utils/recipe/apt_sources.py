# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where this host gets its packages from: apt's sources, in both of apt's formats (sources.list(5)).

An image is bootstrapped from the same mirrors, so that a site's own mirror is used without being named again.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

FOLDER = "/etc/apt"


@dataclass(frozen=True)
class Source:
    """One place of binary packages.

    :ivar signed_by: path of a keyring; empty if apt's own keys are enough.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def as_line(self) -> str:
        """As a line of ``sources.list``."""
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {option}{self.uri} {self.suite} {' '.join(self.components)}"


def parse_lines(text: str) -> list[Source]:
    """Read the one-line format: ``deb [options] uri suite component...``."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.+)", line.split("#")[0].strip())
        if match:
            options, uri, suite, components = match.groups()
            keys = re.search(r"signed-by=(/\S+)", options or "", re.IGNORECASE)
            found.append(Source(uri, suite, tuple(components.split()), keys.group(1) if keys else ""))
    return found


def parse_deb822(text: str) -> list[Source]:
    """Read the stanzas of a ``.sources`` file."""
    found: list[Source] = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and name:
                fields[name] += f" {line.strip()}"
            elif ":" in line:
                name, _colon, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        keys = fields.get("signed-by", "")
        found += [
            Source(uri, suite, tuple(fields.get("components", "").split()), keys if keys.startswith("/") else "")
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return found


def for_suite(sources: t.Iterable[Source], suite: str) -> list[Source]:
    """Those of one release of the distribution, with its updates. Pure."""
    wanted = (suite, f"{suite}-updates", f"{suite}-security")
    return list(dict.fromkeys(source for source in sources if source.suite in wanted))


def read(folder: str = FOLDER) -> list[Source]:
    """All sources of this host; empty where there is no apt."""
    found: list[Source] = []
    parts = os.path.join(folder, "sources.list.d")
    paths = [os.path.join(folder, "sources.list")]
    if os.path.isdir(parts):
        paths += [os.path.join(parts, name) for name in sorted(os.listdir(parts))]
    for path in paths:
        if not os.path.isfile(path) or not path.endswith((".list", ".sources")):
            continue
        with open(path, encoding="utf-8", errors="replace") as file:
            found += (parse_deb822 if path.endswith(".sources") else parse_lines)(file.read())
    return found


def own_suite(path: str = "/etc/os-release") -> str:
    """The release of this host's distribution, for instance ``bookworm``; empty if it is not a Debian or Ubuntu."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            fields = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    except FileNotFoundError:
        return ""
    if fields.get("ID", "").strip('"') not in ("debian", "ubuntu"):
        return ""
    return fields.get("VERSION_CODENAME", "").strip('"')
