# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sweeps: the same proof at many moments. ``make test`` takes some of them, ``make test-fleet`` all the others."""

from __future__ import annotations

import typing as t

import pytest


def sampled(cases: t.Iterable[t.Any], every: int) -> list[t.Any]:
    """Cases for ``parametrize``, in their order.

    :param cases: values, tuples of them, or what :func:`pytest.param` returns.
    :param every: the first, and each so many after it, are run by ``make test``.
    """
    return [case if number % every == 0 else _later(case) for number, case in enumerate(cases)]


def _later(case: t.Any) -> t.Any:
    # What pytest.param returns is a tuple as well, of values, marks and id.
    whole = case if hasattr(case, "marks") else pytest.param(*(case if isinstance(case, tuple) else (case,)))
    return pytest.param(*whole.values, id=whole.id, marks=[*whole.marks, pytest.mark.fleet])
