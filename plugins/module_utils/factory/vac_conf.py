# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From Vac's configuration files to a factory's: what an operator who comes from Vac begins with. Pure.

Each option is carried over, or a sentence says why it is not. What this factory would refuse is not in the result: a
machinetype or a pipe with such a value is left out as a whole, for one that starts something else than before would be
worse than none.
"""

from __future__ import annotations

import posixpath
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import configuration
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import machinetype_keys as keys

#: Where Vac has the files of machinetypes.
_VAC_FILES = "/var/lib/vac/machinetypes"

#: Settings by Vac's name, with ours. Those whose value has to be looked at are in :func:`_settings`.
_SETTINGS = {
    "disk_gb_per_processor": "disk_gb_per_processor",
    "gocdb_sitename": "site",
    "hs06_per_processor": "hs06_per_processor",
    "mb_per_processor": "mb_per_processor",
    "overload_per_processor": "overload_per_processor",
    "processors_per_superslot": "processors_per_superslot",
    "shutdown_time": "shutdown_time",
    "singularity_user": "apptainer_account",
    "total_processors": "total_processors",
    "vac_space": "space",
    "vacmon_hostport": "vacmon_hostport",
}
_TEXTS = ("apptainer_account", "site", "space", "vacmon_hostport")
_LOWER = ("space", "vacmon_hostport")

#: Older names, with whether Vac takes their value if the present name is there too.
_OLD_SETTINGS = {
    "cpu_per_machine": ("processors_per_superslot", False),
    "cpu_total": ("total_processors", True),
    "disk_gb_per_cpu": ("disk_gb_per_processor", True),
    "hs06_per_cpu": ("hs06_per_processor", True),
    "mb_per_cpu": ("mb_per_processor", True),
    "overload_per_cpu": ("overload_per_processor", True),
    "scratch_gb": ("disk_gb_per_processor", True),
    "vcpu_per_machine": ("processors_per_superslot", False),
}
_OLD_KEYS = {
    "cernvm_signing_dn": ("image_signing_dn", True),
    "machineoutputs_days": ("machines_dir_days", True),
    "vm_model": ("machine_model", True),
}

_IGNORED_BY_VAC = "Vac ignores it as well"
_FOR_VMS = "it is for virtual machines"
_NOT_CARRIED = {
    "delete_old_files": _IGNORED_BY_VAC,
    "description": "nothing reads it",
    "domain_type": _IGNORED_BY_VAC,
    "fix_networking": _FOR_VMS,
    "forward_dev": _FOR_VMS,
    "gocdb_cert_file": "capacity is not published to the GOCDB",
    "gocdb_key_file": "capacity is not published to the GOCDB",
    "root_public_key": _FOR_VMS,
    "total_machines": _IGNORED_BY_VAC,
    "udp_timeout_seconds": "polls have a budget of their own and do not keep a factory waiting",
    "version_logger": "nobody is told which version runs",
}
_KEYS_NOT_CARRIED = {
    "image_signing_dn": _FOR_VMS,
    "log_machineoutputs": _IGNORED_BY_VAC,
    "root_device": _FOR_VMS,
    "root_public_key": _IGNORED_BY_VAC,
    "rootpublickey": _IGNORED_BY_VAC,
    "scratch_device": _FOR_VMS,
    "user_data_proxy_cert": _IGNORED_BY_VAC,
    "user_data_proxy_key": _IGNORED_BY_VAC,
}
_FLAGS = ("legacy_proxy", "user_data_proxy")
_LISTS = ("cvmfs_repositories", "tmp_binds")

#: Days for which Vac keeps a machine's folder if nothing is said.
_DAYS = 3

#: Longest that a machine's folder can be kept, in days, for those that Vac keeps for ever.
_FOR_EVER = 3660

_SECTION = re.compile(r"\[([^]]+)\]")
_OPTION = re.compile(r"([^:=\s][^:=]*)[:=](.*)")
_FEATURE = re.compile(r"machinefeatures_option_([a-z0-9_]{1,64})")

_SAID_ABOVE = "of what is said above"

#: Stands for the factory's own name where it is not known.
_SOME_HOST = "factory.example.org"


@dataclass(frozen=True)
class Converted:
    """What became of Vac's files.

    :ivar configuration: JSON types; ``configuration.parse`` takes it, unless the first note says what is missing.
    :ivar notes: what was not carried over and why, and what has to be looked at; no values of ``user_data_option_XXX``.
    :ivar files: that have to come along: by path below ``machinetypes`` in the state folder, where Vac has them.
    """

    configuration: dict[str, t.Any]
    notes: tuple[str, ...]
    files: t.Mapping[str, str]


def convert(files: t.Sequence[tuple[str, str]], host: str = "") -> Converted:
    """Convert.

    :param files: name and text of each, in Vac's order, in which later values win: ``/etc/vac.d/*.conf`` by name,
        ``/etc/vac.conf``, ``/var/run/vac.conf``.
    :param host: the factory's FQDN, if it is known; with it names in ``factories`` can be completed.
    :raises GridboxError: if a file is none of Vac's: neither does Vac start with it then.
    """
    return _Conversion(_sections(files), host.lower()).converted()


# ---- the files ---------------------------------------------------------------------------------------------------


def _sections(files: t.Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Options by section, as RawConfigParser of Python 2 reads them; it differs from that of Python 3 in comments.

    What is indented continues the value before, a comment too. A comment within a line begins with a blank and the
    line's first semicolon.
    """
    found: dict[str, dict[str, str]] = {}
    for name, text in files:
        section: t.Optional[dict[str, str]] = None
        option = ""
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip() or line[0] in "#;" or re.match(r"rem(\s|$)", line, re.IGNORECASE):
                continue
            if line[0].isspace() and section is not None and option:
                section[option] += f"\n{line.strip()}"
                continue
            header, pair = _SECTION.match(line), _OPTION.match(line)
            if header:
                section, option = found.setdefault(" ".join(header[1].lower().split()), {}), ""
            elif pair and section is not None:
                option = pair[1].strip().lower()
                value = pair[2].strip()
                semicolon = value.find(";")
                if semicolon > 0 and value[semicolon - 1].isspace():
                    value = value[:semicolon].rstrip()
                section[option] = "" if value == '""' else value
            else:
                expected = "an option" if section is not None else "a section such as [settings]"
                raise GridboxError(f"{name}, line {number}: is not {expected}, so this is no file of Vac's.")
    return found


# ---- the conversion ----------------------------------------------------------------------------------------------


class _Conversion:
    def __init__(self, sections: t.Mapping[str, dict[str, str]], host: str) -> None:
        self.sections, self.host = sections, host
        self.made: dict[str, t.Any] = {"name": host} if host else {}
        self.notes: list[str] = []
        #: Of each section that says so, how many days a machine's folder is kept.
        self.days: dict[str, float] = {}
        self.files: dict[str, str] = {}
        #: Of substitutions that all machinetypes have, the files by NAME.
        self.common_files: dict[str, str] = {}

    def converted(self) -> Converted:
        self._settings(self._renamed("settings", self.sections.get("settings", {}), _OLD_SETTINGS))
        machinetypes: dict[str, dict[str, str]] = {}
        pipes: dict[str, dict[str, str]] = {}
        for section, options in self.sections.items():
            kind, _blank, name = section.partition(" ")
            if kind in ("machinetype", "vmtype") and name:
                machinetypes.setdefault(name, {}).update(options)
            elif kind == "vacuum_pipe" and name:
                pipes[name] = options
            elif section == "default":
                self._leave("[DEFAULT]", "as a whole", "write its options into each section that they are meant for")
            elif section != "settings":
                self._leave(f"[{section}]", "as a whole", "neither Vac nor this factory reads such a section")
        for name, options in pipes.items():
            self._pipe(name, options)
        for name, options in machinetypes.items():
            self._machinetype(name, options)
        self._engine()
        self._folders()
        self._look()
        return Converted(self.made, tuple(self.notes), dict(sorted(self.files.items())))

    def _engine(self) -> None:
        """Vac has machines of several models beside each other; a factory has one engine."""
        kinds = self.made.get("machinetypes", {})
        own = sorted(name for name, one in kinds.items() if one.get("machine_model") == "apptainer")
        if not own:
            return
        if len(own) == len(kinds) and not self.made.get("vacuum_pipes") and "apptainer_account" in self.made:
            self.made["engine"] = "apptainer"
            return
        self.notes.append(
            f"Apptainer's machinetypes ({', '.join(own)}) are not started, for a factory has one engine: with engine"
            " apptainer it makes their machines, and no others."
        )

    def _leave(self, where: str, what: str, why: str) -> None:
        self.notes.append(f"{where} {what} is not carried over: {why.rstrip('.')}.")

    def _why_not(self, options: t.Mapping[str, t.Any]) -> str:
        """Why a factory refuses some options; empty: it does not."""
        try:
            configuration.parse({"name": self.host or _SOME_HOST, "space": "vac.example.org", **options})
        except InputError as exc:
            return str(exc)
        return ""

    def _renamed(
        self, where: str, options: t.Mapping[str, str], old_names: t.Mapping[str, tuple[str, bool]]
    ) -> dict[str, str]:
        """Options under their present names. Where old and present are both there, the one that Vac takes."""
        found = {name: value for name, value in options.items() if name not in old_names}
        for old, (new, wins) in old_names.items():
            if old not in options:
                continue
            self.notes.append(f"[{where}] {old} is now called {new}.")
            if wins or new not in found:
                found[new] = options[old]
        return found

    # -- [settings]

    def _settings(self, options: t.Mapping[str, str]) -> None:
        if not options.get("vac_space"):
            self.notes.insert(0, "There is no vac_space in [settings]: space has to be added.")
        common_options: dict[str, str] = {}
        features: dict[str, str] = {}
        for name, value in options.items():
            feature = _FEATURE.fullmatch(name)
            if name in _SETTINGS:
                self._setting(name, _SETTINGS[name], value)
            elif name == "draining":
                self.made.update({"draining": True} if value.lower() == "yes" else {})
            elif name == "factories":
                self._factories(value.lower().split())
            elif name == "volume_group":
                self._try("settings", name, {"work_space": "lvm", "volume_group": value})
            elif feature:
                if self._try("settings", name, {"machinefeatures_options": {feature[1]: value}}):
                    features[feature[1]] = value
            elif name.startswith("user_data_"):
                found = self._substitution("settings", name, value)
                if found and found[0] == "file":
                    self.common_files[found[1]] = value
                elif found:
                    common_options[found[1]] = found[2]
            else:
                self._leave("[settings]", name, _NOT_CARRIED.get(name, "neither Vac nor this factory knows it"))
        for name in sorted(set(common_options) & set(self.common_files)):
            del self.common_files[name]
            self._leave("[settings]", f"user_data_file_{name}", f"user_data_option_{name} is there as well")
        given = {
            "machinefeatures_options": features,
            "user_data_options": common_options,
            "user_data_files": {name: posixpath.basename(path) for name, path in self.common_files.items()},
        }
        self.made.update({key: value for key, value in given.items() if value})
        if "shutdown_time" in self.made:
            self.notes.append(
                "[settings] shutdown_time: look whether it is still meant. Vac forgets one in /var/run/vac.conf when"
                " the host is booted; here it stays until it is taken out."
            )

    def _setting(self, name: str, key: str, value: str) -> None:
        if key in _LOWER:
            value = " ".join(value.lower().split())
        self._try("settings", name, {key: value if key in _TEXTS else _number(value)})

    def _try(self, section: str, name: str, options: t.Mapping[str, t.Any]) -> bool:
        """Carry over what is not refused."""
        why = self._why_not(options)
        if why:
            self._leave(f"[{section}]", name, why)
        else:
            self.made.update(options)
        return not why

    def _factories(self, names: t.Sequence[str]) -> None:
        domain = self.host.partition(".")[2]
        others = []
        for name in names:
            full = self.host if name == "." else name if "." in name or not domain else f"{name}.{domain}"
            if name != "." and "." not in full:
                self._leave(
                    "[settings]",
                    f"factories: {name}",
                    "Vac takes it to be in the host's domain; write it with its domain",
                )
            elif full and full != self.host and self._why_not({"factories": [full]}):
                self._leave("[settings]", f"factories: {name}", "it is no host's name with its domain")
            elif full and full != self.host:
                others.append(full)
        if others:
            self.made["factories"] = list(dict.fromkeys(others))

    # -- [machinetype X] and [vacuum_pipe X]

    def _machinetype(self, name: str, options: t.Mapping[str, str]) -> None:
        where = f"machinetype {name}"
        options = self._renamed(where, options, _OLD_KEYS)
        carried = self.made.get("vacuum_pipes", {})
        prefix = _prefix(name, carried)
        # What it does not say of a pipe's machinetype, the pipe does.
        model = options.get("machine_model", "" if prefix else "cernvm3")
        if model in keys.VIRTUAL_MACHINES:
            said = model if "machine_model" in options else f"{model}, which is what no machine_model means,"
            self._leave(f"[{where}]", "as a whole", f"{said} is a virtual machine, and this factory makes containers")
            return
        values = self._keys(where, options)
        others = {"vacuum_pipes": carried} if carried else {}
        why = self._why_not({"machinetypes": {name: values}, **others}) if values is not None else _SAID_ABOVE
        if why:
            self._leave(f"[{where}]", "as a whole", why)
            return
        self.made.setdefault("machinetypes", {})[name] = values
        self._files(prefix or name, options)
        if prefix:
            self.notes.append(
                f"[{where}] changes what the vacuum pipe {prefix} says of this machinetype; look whether it brings one"
                " of this name."
            )
        if model == "singularity" and "apptainer_account" not in self.made:
            self.notes.append(f"[{where}] is run by Apptainer, as an account that apptainer_account has to name.")

    def _pipe(self, prefix: str, options: t.Mapping[str, str]) -> None:
        where = f"vacuum_pipe {prefix}"
        options = self._renamed(where, options, _OLD_KEYS)
        url = options.pop("vacuum_pipe_url", "")
        values = self._keys(where, options)
        entry = {"vacuum_pipe_url": url, **(values or {})}
        pipes = {**self.made.get("vacuum_pipes", {}), prefix: entry}
        why = self._why_not({"vacuum_pipes": pipes}) if values is not None else _SAID_ABOVE
        if why:
            self._leave(f"[{where}]", "as a whole", why)
            return
        self.made["vacuum_pipes"] = pipes
        self._files(prefix, options)

    def _keys(self, where: str, options: t.Mapping[str, str]) -> t.Optional[dict[str, t.Any]]:
        """The keys of a machinetype; None if one is refused, which is noted."""
        values: dict[str, t.Any] = {}
        good = True
        for name, text in options.items():
            if name in _KEYS_NOT_CARRIED:
                self._leave(f"[{where}]", name, _KEYS_NOT_CARRIED[name])
            elif name == "machines_dir_days":
                days = _number(text)
                if isinstance(days, str):
                    self._leave(f"[{where}]", name, "it is no number")
                else:
                    self.days[where] = days
            elif keys.substitution(name):
                found = self._substitution(where, name, text)
                good = good and found is not None
                if found:
                    values[f"user_data_{found[0]}_{found[1]}"] = found[2]
            elif name not in keys.KEYS:
                self._leave(f"[{where}]", name, "neither Vac nor this factory knows it")
            else:
                values[name] = self._value(name, text)
                try:
                    keys.check(name, values[name])
                except keys.Unfit as exc:
                    good = False
                    self.notes.append(f"[{where}] {name}: got {text!r}, expected {exc}.")
        return values if good else None

    @staticmethod
    def _value(name: str, text: str) -> t.Any:
        if name in _FLAGS:
            return text.lower() == "true"
        if name in _LISTS:
            return text.split()
        if name == "machine_model":
            return "apptainer" if text == "singularity" else text
        if name == "user_data" and "://" not in text:
            return posixpath.basename(text)
        return _number(text) if name.endswith(("_seconds", "_processors", "_share", "_per_processor")) else text

    def _substitution(self, where: str, name: str, text: str) -> t.Optional[tuple[str, str, str]]:
        """``option`` or ``file``, name and value of a substitution; None if it is refused, which is noted."""
        kind = keys.substitution(name)
        if kind is None:
            self._leave(f"[{where}]", name, "neither Vac nor this factory knows it")
            return None
        value = posixpath.basename(text) if kind[0] == "file" else text
        try:
            keys.check(name, value)
        except keys.Unfit as exc:  # without the value, which may be a password
            self.notes.append(f"[{where}] {name}: got a value that is not shown, expected {exc}.")
            return None
        return (*kind, value)

    def _files(self, owner: str, options: t.Mapping[str, str]) -> None:
        """Which files of the site have to come along with a machinetype or a pipe. Vac also takes paths."""
        substituted = {kind[1]: (kind[0], options[name]) for name in options if (kind := keys.substitution(name))}
        common = {name: ("file", path) for name, path in self.common_files.items()}
        wanted = [path for kind, path in {**common, **substituted}.values() if kind == "file"]
        if "://" not in options.get("user_data", "://"):
            wanted.append(options["user_data"])
        for path in wanted:
            there = path if path.startswith("/") else f"{_VAC_FILES}/{owner}/files/{path}"
            here = f"{owner}/files/{posixpath.basename(path)}"
            if self.files.setdefault(here, there) != there:
                self.notes.append(f"{here} would be of two files, {self.files[here]} and {there}: rename one of them.")
        image = options.get("root_image", "")
        if image.endswith(".sif") and "/" not in image:
            self.notes.append(
                f"Copy by hand {_VAC_FILES}/{owner}/files/{image} to machinetypes/{owner}/files/{image} in the"
                " factory's state_folder: it is an image."
            )
        if options.get("user_data_proxy", "").lower() == "true":
            self.files.update(
                {f"{owner}/{name}": f"{_VAC_FILES}/{owner}/{name}" for name in ("x509cert.pem", "x509key.pem")}
            )

    # -- what concerns all of it

    def _folders(self) -> None:
        """One number of days for all machines, the largest."""
        if not self.days:
            return
        pipes = self.made.get("vacuum_pipes", {})
        own = [f"vacuum_pipe {name}" for name in pipes]
        # What it does not say of a pipe's machinetype, the pipe does.
        own += [f"machinetype {name}" for name in self.made.get("machinetypes", {}) if not _prefix(name, pipes)]
        for where in own:
            self.days.setdefault(where, _DAYS)
        days = max(_FOR_EVER if one <= 0 else one for one in self.days.values())
        self._try("settings", "machines_dir_days", {"machines_dir_days": days})
        if len(set(self.days.values())) > 1 or min(self.days.values()) <= 0:
            self.notes.append(
                f"machines_dir_days is one for all machines here, and now {days:g}. Vac had"
                f" {', '.join(f'{one:g} for [{where}]' for where, one in self.days.items())}; 0 is for ever."
            )

    def _look(self) -> None:
        """What Vac does without being told."""
        if "volume_group" not in self.made:
            self.notes.append(
                "Vac uses the volume group vac_volume_group if the host has it. To use one here, set work_space: lvm"
                " and volume_group."
            )
        sections = [*self.made.get("machinetypes", {}).values(), *self.made.get("vacuum_pipes", {}).values()]
        if any("cvmfs_repositories" in one for one in sections):
            self.notes.append(
                "With any cvmfs_repositories a machine of Vac's sees all of /cvmfs. Here it sees the repositories that"
                " are named: add those that its jobs use beside."
            )
        self.notes.append(
            "Vac answers whoever knows the space's name. Here the other factories of the list may ask, and who is in"
            " networks; open: true is as Vac has it."
        )


def _prefix(name: str, pipes: t.Container[str]) -> str:
    """The prefix of the pipe whose machinetype this may be; empty: it is none's."""
    return next((name[:at] for at, one in enumerate(name) if one == "-" and name[:at] in pipes), "")


def _number(text: str) -> t.Union[int, float, str]:
    """A number, if the text is one."""
    if re.fullmatch(r"[+-]?[0-9]{1,15}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[+-]?(?:[0-9]{1,15}\.[0-9]{0,15}|\.[0-9]{1,15})", text) else text
