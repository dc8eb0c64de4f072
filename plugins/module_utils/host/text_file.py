# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a configuration file that somebody may have edited, in whatever encoding."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError


def read_text(path: str, errors: str = "replace") -> t.Optional[str]:
    """A text file; None if there is none.

    :param errors: what becomes of bytes that are no UTF-8, as a comment of somebody's may be: ``surrogateescape`` if
        the text is written again.
    :raises GridboxError: if it cannot be read.
    """
    try:
        with open(path, encoding="utf-8", errors=errors) as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise GridboxError(f"{path} cannot be read ({exc}).") from exc
