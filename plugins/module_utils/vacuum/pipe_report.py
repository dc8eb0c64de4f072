# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the module ``vacuum_pipe`` tells of a pipe."""

from __future__ import annotations

import typing as t
from dataclasses import asdict

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe import Pipe, parse
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_fetch import Transfer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_source import from_path, from_url
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section


def info(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Read the pipe that a module's arguments name.

    :raises InputError: for an argument that cannot be right, or content that is no pipe.
    :raises GridboxError: if the pipe cannot be had; with ``strict``, if a machinetype is dropped.
    """
    section = Section.checked(params["name"], params["target_share"], params["options"])
    if params["timeout"] < 1:
        raise InputError("timeout", params["timeout"], "a number of seconds of 1 or more")
    told = []
    if params["url"]:
        pipe = from_url(params["url"], section, Transfer(params["ca_path"] or "", params["timeout"])).pipe
        if params["url"].startswith("http:"):
            told.append(f"{params['url']}: is not https, so whoever is on the way can change the pipe.")
    elif params["path"]:
        pipe = from_path(params["path"], section).pipe
    else:
        pipe = parse((params["content"] or "").encode(errors="surrogatepass"), section)
    if params["strict"] and pipe.dropped:
        many = len(pipe.machinetypes) + len(pipe.not_here) + len(pipe.dropped)
        sentences = " ".join(one.sentence for one in pipe.dropped)
        raise GridboxError(f"{len(pipe.dropped)} of {many} machinetypes of {pipe.prefix} are dropped. {sentences}")
    remarks = [*told, *pipe.warnings]
    return {**_as_result(pipe), "remarks": remarks, "warnings": remarks}


def _as_result(pipe: Pipe) -> dict[str, t.Any]:
    return {
        "cache_seconds": pipe.cache_seconds,
        "machinetypes": [_machinetype(one) for one in pipe.machinetypes],
        "shares": {one.name: one.target_share for one in pipe.machinetypes},
        "unused_share": pipe.unused_share,
        "not_for_this_factory": [asdict(one) for one in pipe.not_here],
        "dropped": [{**asdict(one), "sentence": one.sentence} for one in pipe.dropped],
    }


def _machinetype(machinetype: Machinetype) -> dict[str, t.Any]:
    """A machinetype as data, without the values of its substitutions: a site may have put a password into one."""
    return {**asdict(machinetype), "user_data_options": sorted(machinetype.user_data_options)}
