# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Errors an operator can read.

Every error of the collection is one of these four. Each is a sentence that names what was asked, what was found and
what to do; the daemon's own words come last. The front room turns them into ``fail_json``; nothing else catches them
to hide them.
"""

from __future__ import annotations

import typing as t


class GridboxError(Exception):
    """Base of all errors of the collection. ``str()`` of it is the whole sentence."""


class InputError(GridboxError):
    """A value that cannot be right, found before anything was touched.

    :param option: the option path as the operator writes it, for instance ``network.ipv4``.
    :param value: the value as given.
    :param expected: what would have been right.
    :param remedy: what to do, where ``expected`` does not already say it.
    """

    def __init__(self, option: str, value: t.Any, expected: str, remedy: str = "") -> None:
        self.option = option
        # A key of somebody's JSON may be in it, which not every terminal and journal could bear.
        sentence = f"{option if option.isprintable() else ascii(option)}: got {value!r}, expected {expected}."
        super().__init__(f"{sentence} {remedy}".rstrip())


def unknown_option(option: str, known: t.Collection[str]) -> InputError:
    """That there is no such option, with the one that was probably meant, or all that there are.

    :param option: the option path as the operator writes it; its last part is the option.
    :param known: the options that there are.
    """
    import difflib  # it takes longer than most of the work, and nearly nobody errs

    closest = difflib.get_close_matches(option.rpartition(".")[2], known, 1)
    names = ", ".join(sorted(known))
    # The closest first: where there is little room the end is cut.
    expected = f"{closest[0]}, which comes closest, or another one of {names}" if closest else f"one of {names}"
    return InputError(option, "an option", expected)


class RefusedError(GridboxError):
    """The host's state forbids the change; nothing was touched.

    :param wanted: what was asked for.
    :param found: what the host has.
    :param remedy: what the operator can do.
    """

    def __init__(self, wanted: str, found: str, remedy: str) -> None:
        super().__init__(f"{wanted}: {found}. {remedy}")


class EngineError(GridboxError):
    """The engine refused a request, or did not answer.

    :param request: what was asked of the engine, in words.
    :param answer: the engine's own words.
    :param status: HTTP status, or None when there was no answer.
    """

    def __init__(self, request: str, answer: str, status: t.Optional[int] = None) -> None:
        self.request = request
        self.answer = answer
        self.status = status
        super().__init__(f"{request} failed. The engine says: {answer.strip()}")


class WaitError(GridboxError):
    """Something did not happen in time.

    :param awaited: what was waited for.
    :param seconds: for how long.
    :param last_seen: the state at the end of the wait.
    """

    def __init__(self, awaited: str, seconds: float, last_seen: str = "") -> None:
        seen = f" Last seen: {last_seen}." if last_seen else ""
        super().__init__(f"Waited {seconds:g} s for {awaited}, in vain.{seen}")
