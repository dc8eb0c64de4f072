# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory asks of its engine, whichever that is."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container, Event, MachineEngine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Outside
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype


class Engine(t.Protocol):
    """Makes machines' containers, for several threads. "There is none" is an answer; no answer is an ``EngineError``
    without a status."""

    def containers(self) -> list[Container]:
        """Containers of this factory's machines."""

    def listed(self, unless: t.Container[str] = (), /) -> list[Container]:
        """The same, quicker; of those that run it need not be known since when, nor their process.

        :param unless: uuids of machines of which it is.
        """

    def container(self, identity: str) -> t.Optional[Container]:
        """One of them, by name or id; None: there is none."""

    def create(
        self, machine: Machine, machinetype: Machinetype, configuration: Configuration, folder: str, image: str
    ) -> str:
        """Make a machine's container and return its id.

        :param folder: the machine's, on the host; its work space is mounted at ``mnt`` in it.
        :param image: what ``root_image`` stands for, by its id: a name may move between the decision and the start.
        """

    def start(self, container: str) -> None:
        """Start it."""

    def signal(self, container: str, signal: str) -> bool:
        """Send ``SIGTERM`` to its first process, or ``SIGKILL`` to all; False if it does not run any more."""

    def folder(self, container: str) -> str:
        """The folder, on the host, of the machine that a container was made for; empty: it is gone or says nothing."""

    def outside(self, container: str) -> t.Optional[Outside]:
        """Where a machine writes outside its mounts; None if it is gone or nobody can tell."""

    def remove(self, container: str) -> None:
        """Remove it; one that runs is killed. Fine if it is gone."""

    def output(self, container: str, path: str, limit: int) -> None:
        """Keep the last of what a container has printed in a file, each line with its time."""

    def events(self, since: float) -> t.Iterator[Event]:
        """What happens to machines' containers, for as long as the engine answers: at least, that they end."""

    @property
    def where(self) -> str:
        """Where it has its images: another one may have the same."""

    def fetches(self, reference: str) -> bool:
        """Whether a pull makes an image that the engine keeps; else it is a file or a folder of this host's."""

    def images(self) -> dict[str, tuple[str, ...]]:
        """By id, the tags of all images that it keeps."""

    def foreign_images(self) -> t.Collection[str]:
        """Ids of images that it keeps and that somebody else may have brought."""

    def image(self, reference: str) -> t.Optional[str]:
        """The id of an image that is here; None: it is not."""

    def pull(self, reference: str) -> None:
        """Have an image here, as it is now where it comes from. Takes its time."""

    def remove_image(self, name: str) -> None:
        """Take a name away, or remove an image by its id; an image goes with its last name. Fine if it is gone. An
        ``EngineError`` with a status: it refuses, for instance because a machine uses the image."""


def silently(_event: str, **_facts: t.Any) -> None:
    """For who has no journal."""


def engine_of(configuration: Configuration, say: t.Callable[..., None] = silently) -> Engine:
    """The engine that a factory works with. Nothing is asked of it yet.

    :param say: tells an event and its facts, for the journal.
    """
    if configuration.engine == "apptainer":
        # Here, for a host with another engine needs none of it, and a run that changes nothing is mostly imports.
        from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_engine import ApptainerEngine

        return ApptainerEngine(
            configuration.state_folder, configuration.apptainer_account, configuration.cvmfs_root, say
        )
    return MachineEngine(
        configuration.engine_url, configuration.settings.name, engine=configuration.engine,
        state_folder=configuration.state_folder,
    )  # fmt: skip
