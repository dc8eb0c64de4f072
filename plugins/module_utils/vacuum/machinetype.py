# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machinetype: what may be started in a slot of a factory, wherever its definition came from."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Machinetype:
    """One machinetype, validated and normalised. Names and defaults are Vac's (``vac.conf(5)``), for sites know them.

    :ivar name: lower-case letters, digits and hyphens; of one from a pipe ``PREFIX-SUFFIX``.
    :ivar target_share: what it is to have of the space, relative to the other machinetypes; 0: never started.
    :ivar machinegroup: machinetypes of one group are first compared with other groups by their sums.
    :ivar machine_model: ``docker``, ``podman`` or ``apptainer`` (which Vac calls ``singularity``).
    :ivar root_image: the image: a reference (``docker://`` taken off); for Apptainer ``docker://`` and a reference, a
        path below /cvmfs, the name or path of a file that the site has, or a URL.
    :ivar user_data: an ``https`` or ``http`` URL, or a file's name in the machinetype's folder on the factory.
    :ivar container_command: argument list.
    :ivar cvmfs_repositories: those that are bound, read-only.
    :ivar tmp_binds: absolute paths of work folders in the container.
    :ivar heartbeat_file: a file in joboutputs that has to be there after ``fizzle_seconds``; None: not looked for.
    :ivar heartbeat_seconds: its largest age; 0: it has to be there, however old.
    :ivar accounting_fqan: VOMS FQAN; None: none.
    :ivar disk_gb_per_processor: 10^9 bytes of work space for each processor; None: the factory's.
    :ivar user_data_options: values of ``##user_data_option_NAME##``, by NAME.
    :ivar user_data_files: names of files whose content is such a value, by NAME.
    """

    name: str
    target_share: float = 0.0
    machinegroup: str = ""
    machine_model: str = "docker"
    root_image: str = ""
    user_data: str = ""
    container_command: tuple[str, ...] = ("/user_data",)
    cvmfs_repositories: tuple[str, ...] = ()
    tmp_binds: tuple[str, ...] = ()
    min_processors: int = 1
    max_processors: int = 1
    min_wallclock_seconds: int = 86400
    max_wallclock_seconds: int = 86400
    backoff_seconds: int = 10
    fizzle_seconds: int = 600
    heartbeat_file: t.Optional[str] = None
    heartbeat_seconds: int = 0
    accounting_fqan: t.Optional[str] = None
    disk_gb_per_processor: t.Optional[int] = None
    user_data_options: t.Mapping[str, str] = field(default_factory=dict)
    user_data_files: t.Mapping[str, str] = field(default_factory=dict)
    user_data_proxy: bool = False
    legacy_proxy: bool = False

    @property
    def repositories(self) -> tuple[str, ...]:
        """Repositories of CVMFS that have to answer for a start: those that are bound, and the image's."""
        parts = self.root_image.split("/")
        own = (parts[2],) if parts[:2] == ["", "cvmfs"] else ()
        return tuple(dict.fromkeys((*self.cvmfs_repositories, *own)))

    @property
    def group(self) -> str:
        """Its machinegroup: the one it names, else its accounting FQAN, else itself (spec 1)."""
        return self.machinegroup or self.accounting_fqan or self.name
