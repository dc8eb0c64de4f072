# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the guide docs/first-site.md has for whoever follows it: its commands, and the files of its inventory."""

from __future__ import annotations

import re
from pathlib import Path

from tests.gate.tools import ROOT


def guide() -> str:
    """The guide's text."""
    return (ROOT / "docs/first-site.md").read_text()


def commands() -> list[str]:
    """The blocks marked ``sh``, in their order."""
    return re.findall(r"^```sh\n(.*?)^```$", guide(), re.MULTILINE | re.DOTALL)


def write(folder: Path, text: str) -> Path:
    """Write the files of the inventory in a text: each block that follows the words "in `mysite/...`:".

    :returns: the inventory, a folder in ``folder``.
    """
    files = re.findall(r"in `(mysite/[a-z0-9_/.]+)`:\n\n```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"---\n{content}")
    return folder / "mysite"
