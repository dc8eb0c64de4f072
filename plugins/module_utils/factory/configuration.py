# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operator says of a factory, in a JSON file. Checked here, all of it.

Names are Vac's (spec 2.2) where it has the thing. A file in which anything is wrong is refused as a whole, with all
that is wrong in it: a running factory then goes on with the one it has. What stands in a *pipe* is not the operator's,
and costs its own machinetype only.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError, unknown_option
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import machinetype_keys as keys
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import Network, address_of
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import PORT, Monitor, Peer, parse_monitors
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings

PATH = "/etc/hep.gridbox/factory.json"
STATE_FOLDER = "/var/lib/hep.gridbox/factory"
CVMFS_ROOT = "/cvmfs"

#: Kinds of work space: a logical volume, a file with a file system of its own, a folder without a limit.
WORK_SPACES = ("lvm", "file", "folder")
#: By what they may be made with, bytes of the smallest file system: mkfs.xfs refuses less since 5.19. A fixed size is
#: never less, for it is 1 GB at least.
LEAST_DISK = {"ext4": 1 << 20, "xfs": 300 << 20}

#: What a running daemon keeps: another value of these takes a restart of it.
FIXED = ("name", "state_folder", "port", "key_file", "engine", "engine_url", "apptainer_account", "cvmfs_root")

#: Of these, the ones without which machines are not found any more, or belong to nobody.
WHERE_MACHINES_ARE = ("name", "state_folder", "engine", "engine_url", "apptainer_account")

#: By engine, the models of the machines that it makes.
ENGINES = {
    "auto": ("docker", "podman"), "docker": ("docker", "podman"), "podman": ("docker", "podman"),
    "apptainer": ("apptainer",),
}  # fmt: skip

#: What ``network`` may be with Apptainer: one of the machine's own, named like the engines' default, or the host's.
APPTAINER_NETWORKS = OWN_NETWORK, HOST_NETWORK = "bridge", "host"

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_SOCKET = re.compile(r"unix:///[^\s\x00-\x1f\x7f\ud800-\udfff]+")
_REACHED = re.compile(r"[A-Za-z0-9._-]{1,253}")
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_VOLUME_GROUP = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,126}")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_BENCHMARKS = ("hs06", "hepscore23")


@dataclass(frozen=True)
class PipeSource:
    """A vacuum pipe that the factory reads.

    :ivar url: ``http`` or ``https``; empty: ``path`` is a file of this host.
    """

    section: Section
    url: str = ""
    path: str = ""


@dataclass(frozen=True)
class Override:
    """What the operator says of a machinetype that has a pipe's prefix: it changes the one that the pipe brings.

    :ivar prefix: the pipe's.
    :ivar values: by key, checked, what is said of this one alone. They precede all others (spec 2.4).
    :ivar alone: the machinetype that it is if the pipe brings none of this name; else what it lacks for that.
    """

    name: str
    prefix: str
    values: t.Mapping[str, t.Any]
    alone: t.Union[Machinetype, tuple[keys.Problem, ...]]

    @property
    def sentence(self) -> str:
        """What to tell people if the pipe brings none of this name."""
        told = f"{self.name} is not brought by the vacuum pipe {self.prefix}, and machinetypes.{self.name}"
        if isinstance(self.alone, Machinetype):
            return f"{told} is one by itself."
        return f"{told} is none by itself: {'; '.join(str(problem) for problem in self.alone)}."


@dataclass(frozen=True)
class Configuration:
    """A factory, as its operator wants it.

    :ivar settings: what decisions are made from.
    :ivar space: name of the Vac space.
    :ivar site: name in the GOCDB; empty: the domain of the space, and nothing goes to APEL.
    :ivar factories: those of the space.
    :ivar networks: who else may ask what runs here.
    :ivar open: everybody may.
    :ivar key_file: holds the secret by which factories of ours know each other's datagrams; empty: none.
    :ivar signed_only: what is not signed with it gets no answer, and is not believed: no real Vac is in the space.
    :ivar port: of VacQuery, UDP.
    :ivar vacmon: monitors that are told.
    :ivar state_folder: machines, cached pipes, accounting.
    :ivar engine: ``docker``, ``podman``, ``apptainer``; ``auto``: the one that has machines, else Docker, else Podman.
    :ivar cvmfs_root: where this host has the repositories of CernVM-FS; machines have them in ``/cvmfs``.
    :ivar ca_path: a file or a folder of CA certificates, the only ones that servers of pipes and user_data are trusted
        by; empty: those of the system and of the Grid.
    :ivar engine_url: where Docker or Podman listens; empty: its usual socket.
    :ivar network: the engine's network that machines are on; with Apptainer one of :data:`APPTAINER_NETWORKS`.
    :ivar work_space: ``lvm``, ``file`` or ``folder``.
    :ivar file_system: ``ext4`` or ``xfs``, of a work space.
    :ivar volume_group: for ``lvm``.
    :ivar thin_pool: a thin pool in it; empty: linear volumes.
    :ivar pids_per_processor: processes and threads a machine may have, for each processor.
    :ivar root_bytes_per_processor: that a machine may write outside its work space, for each processor.
    :ivar nofile: files that a process of a machine may have open.
    :ivar apptainer_account: the account of Apptainer machines; empty: there are none.
    :ivar machines_days: how long a machine's folder is kept.
    :ivar images_days: how long an image that the factory has pulled is kept when nobody wants it; 0: for ever.
    :ivar output_bytes: of a machine's standard output that is kept.
    :ivar machinefeatures_options: further files in machinefeatures, by name.
    :ivar metrics_file: a file in which Prometheus' node_exporter finds the factory's figures; empty: none.
    :ivar benchmark: ``hs06`` or ``hepscore23``: what ``settings.hs06_per_processor`` counts.
    :ivar machinetypes: those the operator defines himself.
    :ivar overrides: those that may be a pipe's, by their names.
    :ivar pipes: by prefix.
    """

    settings: FactorySettings
    space: str
    site: str = ""
    factories: tuple[Peer, ...] = ()
    networks: tuple[Network, ...] = ()
    open: bool = False
    key_file: str = ""
    signed_only: bool = False
    port: int = PORT
    vacmon: tuple[Monitor, ...] = ()
    state_folder: str = STATE_FOLDER
    engine: str = "auto"
    cvmfs_root: str = CVMFS_ROOT
    ca_path: str = ""
    engine_url: str = ""
    network: str = "bridge"
    work_space: str = "file"
    file_system: str = "ext4"
    volume_group: str = ""
    thin_pool: str = ""
    pids_per_processor: int = 1024
    root_bytes_per_processor: int = 5 * 10**9
    nofile: int = 65536
    apptainer_account: str = ""
    machines_days: float = 3.0
    images_days: int = 7
    output_bytes: int = 10 << 20
    machinefeatures_options: t.Mapping[str, str] = field(default_factory=dict)
    metrics_file: str = ""
    benchmark: str = "hs06"
    machinetypes: tuple[Machinetype, ...] = ()
    overrides: tuple[Override, ...] = ()
    pipes: tuple[PipeSource, ...] = ()

    @property
    def others(self) -> tuple[Peer, ...]:
        """The factories of the space but this one, which Vac's operators list as well."""
        return tuple(one for one in self.factories if one.factory != self.settings.name)

    @property
    def grace_seconds(self) -> int:
        """From TERM to KILL when a machine has to end."""
        return self.settings.grace_seconds

    @property
    def models(self) -> tuple[str, ...]:
        """Of machinetypes whose machines can be made here."""
        return ENGINES[self.engine]

    @property
    def fixed(self) -> dict[str, t.Any]:
        """The options of :data:`FIXED` with their values."""
        return {option: self.settings.name if option == "name" else getattr(self, option) for option in FIXED}

    @property
    def site_name(self) -> str:
        """What the site is called in messages and records: in the GOCDB, else the domain of the space (spec 2.2)."""
        return self.site or self.space.partition(".")[2] or self.space


def load(path: str) -> Configuration:
    """A factory's file.

    :raises GridboxError: if it cannot be read.
    :raises InputError: if something in it is wrong.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as exc:
        raise GridboxError(f"The factory's configuration {path} cannot be read ({exc.strerror}).") from exc
    except (ValueError, RecursionError) as exc:
        raise InputError(path, "a file that is not JSON", "a factory in JSON", str(exc)) from exc
    return parse(data)


def parse(data: t.Any) -> Configuration:
    """A factory from the file's content.

    :raises InputError: the first thing that is wrong, and the options that are wrong beside.
    """
    if not isinstance(data, dict):
        raise InputError("factory", data, "a JSON object")
    reader = _Reader(data)
    made = _read(reader)
    reader.end()
    return made


class _Reader:
    """Takes options out of an object, remembers what was wrong with them."""

    def __init__(self, data: t.Mapping[str, t.Any]) -> None:
        self._data = dict(data)
        self._known: set[str] = set()
        self._wrong: list[InputError] = []

    def take(self, key: str, default: t.Any, good: t.Callable[[t.Any], t.Any], expected: str) -> t.Any:
        """An option's value: what ``good`` makes of it; the default if it is not there.

        :param good: raises ValueError or TypeError if the value is none.
        """
        self._known.add(key)
        value = self._data.pop(key, None)
        if value is None:
            return default
        try:
            return good(value)
        except InputError as exc:
            self._wrong.append(exc)
        except (ValueError, TypeError, AttributeError):
            self._wrong.append(InputError(key, value, expected))
        return default

    def integer(self, key: str, default: t.Any, low: int, high: int) -> t.Any:
        def good(value: t.Any) -> int:
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError
            return value

        return self.take(key, default, good, f"a whole number from {low} to {high}")

    def number(self, key: str, default: t.Any, low: float, high: float) -> t.Any:
        def good(value: t.Any) -> float:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ValueError
            return float(value)

        return self.take(key, default, good, f"a number from {low:g} to {high:g}")

    def flag(self, key: str) -> bool:
        def good(value: t.Any) -> bool:
            if not isinstance(value, bool):
                raise ValueError
            return value

        return t.cast(bool, self.take(key, False, good, "true or false"))

    def text(self, key: str, default: str, pattern: re.Pattern[str], expected: str) -> str:
        def good(value: t.Any) -> str:
            if not isinstance(value, str) or not (pattern.fullmatch(value) or value == default):
                raise ValueError
            return value

        return t.cast(str, self.take(key, default, good, expected))

    def choice(self, key: str, default: str, choices: t.Sequence[str]) -> str:
        def good(value: t.Any) -> str:
            if value not in choices:
                raise ValueError
            return str(value)

        return t.cast(str, self.take(key, default, good, f"one of {', '.join(choices)}"))

    def names(self, key: str) -> list[str]:
        """The names in an object that is yet to be taken; none if it is no object."""
        value = self._data.get(key)
        return list(value) if isinstance(value, dict) else []

    def refuse(self, error: InputError) -> None:
        """Something is wrong with several options together."""
        self._wrong.append(error)

    def end(self) -> None:
        """Nothing is left, and nothing was wrong."""
        for key in self._data:
            self._wrong.append(unknown_option(str(key), self._known))
        if not self._wrong:
            return
        first, others = self._wrong[0], [error.option for error in self._wrong[1:]]
        if others:
            first.args = (f"{first} Wrong as well: {', '.join(others)}.",)
        raise first


def _read(reader: _Reader) -> Configuration:
    settings = _settings(reader)
    space = reader.text("space", "", _HOST, "the space's name, like a host's with its domain: vac01.example.org")
    if not space:
        reader.refuse(InputError("space", space, "the space's name, like a host's with its domain: vac01.example.org"))
    factories = reader.take("factories", (), peers_of, "a list of FQDNs, or of objects: factory, host, port")
    signed_only = reader.flag("signed_only")
    made = Configuration(
        settings=settings,
        space=space,
        site=reader.text("site", "", re.compile(r"[A-Za-z0-9._-]{1,64}"), "the site's name in the GOCDB"),
        factories=tuple(replace(one, signed=signed_only) for one in factories),
        networks=reader.take("networks", (), _networks, "a list of networks such as 192.0.2.0/24"),
        open=reader.flag("open"),
        key_file=reader.text("key_file", "", _ABSOLUTE, "an absolute path"),
        signed_only=signed_only,
        port=reader.integer("port", PORT, 1, 65535),
        vacmon=reader.take("vacmon_hostport", (), parse_monitors, "HOST:PORT, several with spaces between"),
        state_folder=reader.text("state_folder", STATE_FOLDER, _ABSOLUTE, "an absolute path"),
        engine=reader.choice("engine", "auto", tuple(ENGINES)),
        cvmfs_root=reader.text("cvmfs_root", CVMFS_ROOT, _ABSOLUTE, "an absolute path"),
        ca_path=reader.text("ca_path", "", _ABSOLUTE, "an absolute path"),
        engine_url=reader.text("engine_url", "", _SOCKET, "unix:// and a socket's path"),
        network=reader.text("network", "bridge", re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*"), "a network of the engine"),
        work_space=reader.choice("work_space", "file", WORK_SPACES),
        file_system=reader.choice("file_system", "ext4", tuple(LEAST_DISK)),
        volume_group=reader.text("volume_group", "", _VOLUME_GROUP, "a volume group's name"),
        thin_pool=reader.text("thin_pool", "", _VOLUME_GROUP, "a thin pool's name"),
        pids_per_processor=reader.integer("pids_per_processor", 1024, 16, 4194304),
        root_bytes_per_processor=int(reader.number("root_gb_per_processor", 5.0, 0.001, 100000) * 10**9),
        nofile=reader.integer("nofile", 65536, 64, 1 << 20),
        apptainer_account=reader.text("apptainer_account", "", _ACCOUNT, "an account's name"),
        machines_days=reader.number("machines_dir_days", 3.0, 0, 3660),
        images_days=reader.integer("images_days", 7, 0, 3660),
        output_bytes=reader.integer("output_bytes", 10 << 20, 1 << 16, 1 << 34),
        machinefeatures_options=reader.take(
            "machinefeatures_options", {}, _features, "an object: names of a-z, 0-9 and _, with one line of text each"
        ),
        metrics_file=reader.text("metrics_file", "", _METRICS, "an absolute path that ends in .prom"),
        benchmark=reader.choice("benchmark", "hs06", _BENCHMARKS),
        **_started(reader),
    )
    if made.work_space != "folder":
        made = replace(made, settings=replace(settings, least_disk_bytes=LEAST_DISK[made.file_system]))
    if made.signed_only and not made.key_file:
        expected = "false, for there is no key_file to sign and to check with"
        reader.refuse(InputError("signed_only", True, expected, "Name the space's key as key_file."))
    if made.work_space == "lvm" and not made.volume_group:
        reader.refuse(InputError("volume_group", "", "a volume group's name, for work_space is lvm"))
    for option in ("volume_group", "thin_pool"):
        if made.work_space != "lvm" and getattr(made, option):
            expected = f"nothing, for work_space is {made.work_space}"
            remedy = f"Set work_space: lvm, or leave {option} out."
            reader.refuse(InputError(option, getattr(made, option), expected, remedy))
    for shorter, longer in _ambiguous([one.section.prefix for one in made.pipes]):
        expected = "a prefix that does not begin with another pipe's and a hyphen"
        why = f"a machinetype {longer}-a could be of this pipe or of {shorter}; rename one of them"
        reader.refuse(InputError("vacuum_pipes", longer, f"{expected}: {why}"))
    if made.apptainer_account == "root" or (made.engine == "apptainer" and not made.apptainer_account):
        expected = "an account of its own: all its processes are the factory's"
        reader.refuse(InputError("apptainer_account", made.apptainer_account, expected))
    if made.engine == "apptainer" and made.network not in APPTAINER_NETWORKS:
        expected = "bridge, a network of the machine's own, or host: with Apptainer there is no other"
        reader.refuse(InputError("network", made.network, expected))
    return made


def _ambiguous(prefixes: t.Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of prefixes of which the names of machinetypes, ``PREFIX-SUFFIX``, do not tell the pipe."""
    return [(one, other) for one in prefixes for other in prefixes if other.startswith(f"{one}-")]


#: Whatever the operator calls it: nothing but this host's open() reads it.
_PIPE_PATH = re.compile(r"/[^\x00-\x1f\x7f\ud800-\udfff]{1,4095}")
_ABSOLUTE = re.compile(r"(?:/[A-Za-z0-9._+@=-]+)+")
#: node_exporter reads the files of its folder that are called so, and no others.
_METRICS = re.compile(r"(?:/[A-Za-z0-9._+@=-]+)+\.prom")


def _settings(reader: _Reader) -> FactorySettings:
    name = reader.text("name", "", _HOST, "the host's name with its domain, in lower case") or socket.getfqdn().lower()
    if "." not in name:
        reader.refuse(InputError("name", name, "the host's name with its domain, for peers know it by that"))
    total = reader.integer("total_processors", os.cpu_count() or 1, 1, 4096)
    slots = reader.integer("slots", total, 1, 4096)
    width = 2 if slots <= 100 else 4
    host, _dot, domain = name.partition(".")
    disk = reader.integer("disk_gb_per_processor", None, 1, 100000)
    return FactorySettings(
        name=name,
        # factory_of knows that.
        slots=tuple(f"{host}-{number:0{width}d}.{domain}" for number in range(slots)),
        total_processors=total,
        processors_per_superslot=reader.integer("processors_per_superslot", 1, 1, 4096),
        mb_per_processor=reader.integer("mb_per_processor", 2048, 4, 1 << 24),
        hs06_per_processor=reader.number("hs06_per_processor", None, 0.001, 1e6),
        overload_per_processor=reader.number("overload_per_processor", 1.25, 0.01, 1e6),
        shutdown_time=reader.integer("shutdown_time", None, 0, 1 << 40),
        grace_seconds=reader.integer("grace_seconds", 60, 0, 86400),
        draining=reader.flag("draining"),
        disk_bytes_per_processor=disk and disk * 10**9,
    )


def factory_of(slot: str) -> str:
    """The name of the factory that a slot is of, by the slot's name."""
    found = re.fullmatch(r"([^.]+)-[0-9]+(\..+)", slot)
    return f"{found[1]}{found[2]}" if found else slot


def _started(reader: _Reader) -> dict[str, t.Any]:
    """Machinetypes and pipes, each with the substitutions that all have."""
    common: dict[str, t.Any] = {}
    for what in ("option", "file"):
        common.update(reader.take(f"user_data_{what}s", {}, _substitutions(what), ""))

    prefixes = reader.names("vacuum_pipes")

    def machinetypes(value: t.Any) -> tuple[t.Union[Machinetype, Override], ...]:
        return tuple(_machinetype(name, one, common, prefixes) for name, one in sorted(value.items()))

    expected = "an object: by name, the keys of a machinetype"
    defined = reader.take("machinetypes", (), machinetypes, expected)
    overrides = tuple(one for one in defined if isinstance(one, Override))

    def pipes(value: t.Any) -> tuple[PipeSource, ...]:
        return tuple(_pipe(prefix, keys.over(one, common), overrides) for prefix, one in sorted(value.items()))

    return {
        "machinetypes": tuple(one for one in defined if isinstance(one, Machinetype)),
        "overrides": overrides,
        "pipes": reader.take("vacuum_pipes", (), pipes, "an object: by prefix, vacuum_pipe_url, target_share and more"),
    }


def _machinetype(
    name: str, given: t.Mapping[str, t.Any], common: t.Mapping[str, t.Any], prefixes: t.Sequence[str]
) -> t.Union[Machinetype, Override]:
    """What the operator says of a machinetype: all of it, or, if it may be a pipe's, what is to be another way.

    :param common: substitutions that all machinetypes have.
    :param prefixes: of the pipes.
    """
    where = f"machinetypes.{name}"
    own = _values(name, given)
    values = {"machine_model": "docker", **keys.over(own, common)}
    made = keys.build(name, values.pop("target_share", 0.0), values)
    prefix = next((one for one in prefixes if name.startswith(f"{one}-")), None)
    if prefix is not None:
        for problem in keys.conflicts(own):
            raise InputError(f"{where}.{problem.key}", own[problem.key], problem.expected)
        return Override(name, prefix, own, made if isinstance(made, Machinetype) else tuple(made))
    if isinstance(made, Machinetype):
        return made
    there = ", ".join(prefixes) or "there is none"
    remedy = "" if made[0].value else f"It has the prefix of no vacuum pipe ({there}), so it has to be complete."
    raise InputError(f"{where}.{made[0].key}", made[0].value, made[0].expected, remedy)


def _values(name: str, given: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The keys of a machinetype, checked."""
    where = f"machinetypes.{name}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or len(name) > keys.NAME_LENGTH:
        expected = f"1 to {keys.NAME_LENGTH} lower-case letters, digits and hyphens, no hyphen first"
        raise InputError("machinetypes", name, expected)
    values = {}
    for key, value in given.items():
        if not keys.is_key(key):
            raise unknown_option(f"{where}.{key}", {*keys.KEYS, *keys.SUBSTITUTIONS})
        try:
            values[key] = keys.check(key, value)
        except keys.Unfit as exc:
            told = "a value that is not shown" if key.startswith("user_data_option_") else value
            raise InputError(f"{where}.{key}", told, str(exc)) from None
    return values


#: What a pipe has beside the keys of its machinetypes.
_OF_A_PIPE = ("vacuum_pipe_url", "vacuum_pipe_path")


def _pipe(prefix: str, given: t.Mapping[str, t.Any], overrides: t.Iterable[Override]) -> PipeSource:
    where, options = f"vacuum_pipes.{prefix}", dict(given)
    for key in options:
        if key not in _OF_A_PIPE and not keys.is_key(key):
            raise unknown_option(f"{where}.{key}", {*_OF_A_PIPE, *keys.KEYS, *keys.SUBSTITUTIONS})
    url, path = options.pop("vacuum_pipe_url", ""), options.pop("vacuum_pipe_path", "")
    section = Section.checked(prefix, options.pop("target_share", 0.0), options)
    section = replace(section, machinetypes={one.name: one.values for one in overrides if one.prefix == prefix})
    if (url == "") == (path == ""):
        raise InputError(f"{where}.vacuum_pipe_url", url, "the pipe's URL, or vacuum_pipe_path, a file of this host")
    if path != "" and not (isinstance(path, str) and _PIPE_PATH.fullmatch(path)):
        raise InputError(f"{where}.vacuum_pipe_path", path, "an absolute path of a file of this host")
    try:
        return PipeSource(section, keys.check_url(url) if url != "" else "", path)
    except keys.Unfit as exc:
        raise InputError(f"{where}.vacuum_pipe_url", url, str(exc)) from None


def _peer(factory: str, host: str = "", port: int = PORT) -> Peer:
    """What can be said of another factory: ``signed`` is said of all of them, by ``signed_only``."""
    return Peer(factory, host, port)


def peers_of(value: t.Any) -> tuple[Peer, ...]:
    """Factories as operators list them.

    :raises ValueError: if something in the list is none; or TypeError, AttributeError.
    :raises InputError: if a factory cannot be where it is said to be.
    """
    if not isinstance(value, (list, tuple)):
        raise ValueError
    found = []
    for index, one in enumerate(value):
        given = one if isinstance(one, dict) else {"factory": one}
        peer = _peer(**given)
        if not _HOST.fullmatch(peer.factory) or "." not in peer.factory:
            raise ValueError
        if not _is_reachable(peer.host):
            raise InputError(f"factories[{index}].host", peer.host, "a host's name or an address")
        if isinstance(peer.port, bool) or not isinstance(peer.port, int) or not 0 < peer.port < 65536:
            raise InputError(f"factories[{index}].port", peer.port, "a whole number from 1 to 65535")
        found.append(peer)
    return tuple(found)


def _is_reachable(host: t.Any) -> bool:
    """Whether it may be asked for: empty, a name of this host's network, or an address."""
    return isinstance(host, str) and (not host or bool(_REACHED.fullmatch(host)) or address_of(host) is not None)


def _networks(value: t.Any) -> tuple[Network, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError
    return tuple(ipaddress.ip_network(one) for one in value)


def _features(value: t.Any) -> dict[str, str]:
    made = _texts(value)
    if not all(text.replace("\t", " ").isprintable() for text in made.values()):
        raise ValueError
    return made


def _texts(value: t.Any) -> dict[str, str]:
    if not all(isinstance(name, str) and _NAME.fullmatch(name) and isinstance(one, str) for name, one in value.items()):
        raise ValueError
    return dict(value)


def _substitutions(what: str) -> t.Callable[[t.Any], dict[str, str]]:
    """Substitutions that all machinetypes have, by their keys in one; the values are not to be shown.

    :param what: ``option`` or ``file``.
    """
    option = f"user_data_{what}s"

    def good(value: t.Any) -> dict[str, str]:
        made = {}
        try:
            for name, text in _texts(value).items():
                key = f"user_data_{what}_{name}"
                made[key] = keys.check(key, text)
        except keys.Unfit as exc:
            raise InputError(option, "a value that is not shown", str(exc)) from None
        except (ValueError, TypeError, AttributeError):
            expected = "an object: names of a-z, 0-9 and _, with a text each"
            raise InputError(option, "a value that is not shown", expected) from None
        return made

    return good
