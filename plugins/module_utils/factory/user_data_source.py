# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a machine's user_data comes from: the experiment's server, or files that the site has put on this host.

Asked afresh for every machine, for an experiment changes its template when it likes (spec 3.7). Vac runs whatever the
server answers, error pages too (spec 9.1, item 5): here only a document that was asked for is a template, and no web
page.
"""

from __future__ import annotations

import os
import re
import typing as t
import urllib.parse
from dataclasses import replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration, PipeSource
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data import Content
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_fetch import (
    Transfer,
    fetch,
    names_this_host,
    read_file,
)

#: Of a template, and of each file that is filled in.
MAX_BYTES = 1 << 20

#: Where HTML begins: some servers leave out its own beginning.
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|title|body)\b", re.IGNORECASE)
#: What may stand before it, beside blanks: how it begins and ends.
_PROLOG = ((b"<?xml", b"?>"), (b"<!--", b"-->"))
_BLANKS = re.compile(rb"\s*")


def load(machinetype: Machinetype, configuration: Configuration, transfer: Transfer) -> t.Optional[Content]:
    """A machinetype's template, and the files that are filled in; None if its machines have no user_data.

    :raises RefusedError: for a file that is not in the folder of the machinetype or of its pipe, or for a server of
        this host that only a pipe from elsewhere names.
    :raises GridboxError: if something cannot be had, or is no template.
    """
    source = machinetype.user_data
    if not source:
        return None
    if source.startswith(("http://", "https://")):
        url = source
        here = _may_be_here(machinetype, configuration)
        template = fetch(url, replace(transfer, max_bytes=MAX_BYTES, from_this_host=here)).content or b""
        if is_web_page(template):
            raise GridboxError(f"{url}: is a web page, no user_data.")
    else:
        url = ""
        template = _read(machinetype, configuration, source)
    if not template.strip():
        raise GridboxError(f"{source}: is empty, no user_data for {machinetype.name}.")
    files = {
        name: _read(machinetype, configuration, file).decode("utf-8", "surrogateescape")
        for name, file in machinetype.user_data_files.items()
    }
    return Content(template, url, files)


def folder_of(machinetype: Machinetype, configuration: Configuration) -> str:
    """The folder in which the site keeps what is for a machinetype; those with one pipe's prefix share one (spec 2.3).

    :raises RefusedError: if it is not clear whose the machinetype is. A pipe chooses the ends of its machinetypes'
        names, and must not come to another's keys by that.
    """
    name = machinetype.name
    owners = [one.name for one in configuration.machinetypes if one.name == name]
    if not owners:
        owners = [pipe.section.prefix for pipe in _pipes_of(name, configuration)]
    if len(owners) != 1:
        found = f"may be of the vacuum pipes {', '.join(owners)}" if owners else "is of no vacuum pipe of this factory"
        raise RefusedError(
            f"Looking for files of the machinetype {name}",
            f"it {found}",
            "Give the pipes prefixes of which none begins with another and a hyphen.",
        )
    return os.path.join(configuration.state_folder, "machinetypes", owners[0])


def _pipes_of(name: str, configuration: Configuration) -> list[PipeSource]:
    """The vacuum pipes that may have brought the machinetype of that name."""
    return [pipe for pipe in configuration.pipes if name.startswith(f"{pipe.section.prefix}-")]


def _may_be_here(machinetype: Machinetype, configuration: Configuration) -> bool:
    """Whether its template may be on a server of this host: where the site says so, or the pipe is the site's own. What
    listens on this host for this host alone is not for who writes a pipe, and a machine reads what is fetched. Pure."""
    name = machinetype.name
    if any(one.name == name for one in configuration.machinetypes):
        return True
    pipes = _pipes_of(name, configuration)
    said = any(one.section.said_of(name).get("user_data") == machinetype.user_data for one in pipes)
    return said or (bool(pipes) and all(not one.url or _is_here(one.url, configuration.settings.name) for one in pipes))


def _is_here(url: str, factory: str) -> bool:
    """Whether a URL is of this host, as far as that is written in it. Its own name is one of those: Debian has it at
    127.0.1.1, and a small site's factory may publish its pipes itself. Pure."""
    return names_this_host(url) or (urllib.parse.urlsplit(url).hostname or "").lower() == factory.lower()


def is_web_page(document: bytes) -> bool:
    """Whether it is HTML, after what may stand before that. Pure.

    Each byte is looked at once: a server may send anything, and a regular expression of it all would try every way to
    divide what it has matched.
    """
    at = 3 if document.startswith(b"\xef\xbb\xbf") else 0
    while True:
        at = _skipped(document, at)
        marks = [marks for marks in _PROLOG if document[at : at + len(marks[0])].lower() == marks[0]]
        if not marks:
            return _HTML.match(document, at) is not None
        begins, ends = marks[0]
        end = document.find(ends, at + len(begins))
        if end < 0:
            return False
        at = end + len(ends)


def _skipped(document: bytes, at: int) -> int:
    """Where the blanks end that begin at a place."""
    blanks = _BLANKS.match(document, at)
    return blanks.end() if blanks is not None else at


def _read(machinetype: Machinetype, configuration: Configuration, name: str) -> bytes:
    """A file of the site's for a machinetype. A pipe names it, so a link in the folder must not lead out of it."""
    files = os.path.realpath(os.path.join(folder_of(machinetype, configuration), "files"))
    path = os.path.realpath(os.path.join(files, name))
    if not path.startswith(f"{files}/"):
        raise RefusedError(
            f"Reading {name} for the machinetype {machinetype.name}",
            f"it leads out of {files}, to {path}",
            "Put the file itself into the folder.",
        )
    return read_file(path, MAX_BYTES)
