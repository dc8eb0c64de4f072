# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of images, checked before they reach the engine."""

from __future__ import annotations

import re

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError

# The grammar of the distribution project's reference package, as Docker and Podman use it.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?"
_REPOSITORY = rf"(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*"
_NAME = re.compile(rf"(?P<repository>{_REPOSITORY})(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?")
_DIGEST = r"@sha256:[0-9a-f]{64}"
_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}|sha256:[0-9a-f]{7,64}")


def image_name(option: str, value: str) -> str:
    """A name that can be given to an image, with its tag: ``vobox`` is ``vobox:latest``.

    :raises InputError: if it is none.
    """
    match = _NAME.fullmatch(value)
    if match is None or len(match["repository"]) > 255 or _ID.fullmatch(value):
        raise InputError(option, value, "an image name such as vobox:el9 or registry.example.org/grid/vobox:el9")
    return f"{match['repository']}:{match['tag'] or 'latest'}"


def image_reference(option: str, value: str) -> str:
    """Anything that names an image: a name, a name with a digest, or an id.

    :raises InputError: if it is none.
    """
    if _ID.fullmatch(value):
        return value
    if re.fullmatch(rf"{_NAME.pattern}{_DIGEST}", value):
        return value
    try:
        return image_name(option, value)
    except InputError:
        raise InputError(option, value, "an image's name (vobox:el9), its digest (name@sha256:...) or its id") from None


def is_name(reference: str) -> bool:
    """Whether a reference is a name that can be moved, not an id and not a digest."""
    return "@" not in reference and not _ID.fullmatch(reference)
