# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each key of a machinetype may hold, and which keys must fit each other. Pure.

A pipe is written by others, and what it says is carried out on the site's hosts. So each key has a grammar of its own,
narrower than what engines and file systems would bear: whatever passes here can stand in an argument list, in a path
below a folder of the factory, or in a mount, and mean nothing else there. Keys, units and defaults are Vac's
(``vac.conf(5)``; spec 2.3, 3.2); Vac itself checks a few for slashes (spec 3.4), and with that was open to commands.
"""

from __future__ import annotations

import math
import re
import reprlib
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.repository import NAME as REPOSITORY
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.image.reference import image_reference, is_name
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype

Check = t.Callable[[t.Any], t.Any]

#: Models that were virtual machines.
VIRTUAL_MACHINES = ("cernvm3", "cernvm4", "vm-raw")

#: By the name in a pipe, the model. Apptainer is the name Singularity has had since 2021.
MODELS = {"docker": "docker", "podman": "podman", "apptainer": "apptainer", "singularity": "apptainer"}

#: Keys that mean something to virtual machines only: read past, without a word.
OF_VIRTUAL_MACHINES = frozenset({"image_signing_dn", "root_device", "scratch_device"})

#: Keys for the site alone: a pipe's is ignored, with a word.
OF_THE_SITE = frozenset({"machinegroup"})

#: Longest name of a machinetype. It becomes part of names of folders and of datagrams.
NAME_LENGTH = 63
_DAY = 86400

#: What the container contract (spec 6.2) or the engine puts into a machine.
OWNED = (
    "/cvmfs", "/dev", "/etc/hostname", "/etc/hosts", "/etc/jobfeatures", "/etc/machinefeatures", "/etc/resolv.conf",
    "/proc", "/run/.containerenv", "/run/podman-init", "/run/secrets", "/sbin/docker-init", "/sys", "/user_data",
    "/usr/sbin/docker-init", "/var/run", "/var/spool/joboutputs",
)  # fmt: skip

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")
_URL = re.compile(
    r"https?://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?"
)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_PATH = re.compile(r"(?:/[A-Za-z0-9._+@=-]+)+")
_PROGRAM = re.compile(r"/?[A-Za-z0-9_.][A-Za-z0-9._+-]*(?:/[A-Za-z0-9._+-]+)*")
_PLAIN_WORDS = re.compile(r"[A-Za-z0-9._/:=,@%+ -]*")
_FQAN = re.compile(r"(?:/[A-Za-z0-9][A-Za-z0-9._-]*)+(?:/Role=[A-Za-z0-9._-]+)?(?:/Capability=[A-Za-z0-9._-]+)?")
_GROUP = re.compile(r"[A-Za-z0-9._/=-]{1,255}")
_SUBSTITUTION = re.compile(r"user_data_(option|file)_([a-z0-9_]{1,64})")

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 4, 4


class Unfit(Exception):
    """A value that its key cannot have. ``str()`` of it is what was expected."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a machinetype.

    :ivar key: the key, or ``suffix``, or empty if the machinetype as a whole is meant.
    :ivar value: the value, shortened, as people can be shown it; empty if there is none.
    :ivar expected: what would be right.
    """

    key: str
    value: str
    expected: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{key}{f'got {self.value}' if self.value else 'nothing is given'}, expected {self.expected}"


def shown(value: t.Any) -> str:
    """A value as a message can hold it: short, and printable whatever it is."""
    return _SHORT.repr(value)


def is_key(key: str) -> bool:
    """Whether a key means something to machinetypes that are containers."""
    return key in KEYS or substitution(key) is not None


def substitution(key: str) -> t.Optional[tuple[str, str]]:
    """Of ``user_data_option_NAME`` and ``user_data_file_NAME`` which of the two it is, and NAME; else None."""
    match = _SUBSTITUTION.fullmatch(key)
    return (match[1], match[2]) if match else None


def sets(values: t.Mapping[str, t.Any], key: str) -> bool:
    """Whether values leave nothing to say of a key: ``user_data_option_NAME`` and ``user_data_file_NAME`` are one."""
    kind = substitution(key)
    return any(f"user_data_{what}_{kind[1]}" in values for what in ("option", "file")) if kind else key in values


def over(values: t.Mapping[str, t.Any], below: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Values, and of those below them the ones that they do not set."""
    return {**{key: value for key, value in below.items() if not sets(values, key)}, **values}


def check(key: str, value: t.Any) -> t.Any:
    """A value of a known key, normalised.

    :raises Unfit: with what the key may have.
    """
    kind = substitution(key)
    if kind is None:
        return KEYS[key](value)
    return _file_name(value) if kind[0] == "file" else _option_text(value)


def check_url(value: t.Any) -> str:
    """An address to fetch from: without credentials, for it is shown and logged.

    :raises Unfit: if it is none.
    """
    if isinstance(value, str) and len(value) <= 2048 and _URL.fullmatch(value) and "/../" not in f"{value}/":
        return value
    raise Unfit("an http:// or https:// URL of at most 2048 characters, without user, password, fragment, blanks or ..")


def machinetype_name(prefix: str, suffix: t.Any) -> str:
    """The name of a pipe's machinetype: ``PREFIX-SUFFIX``.

    :raises Unfit: if the suffix cannot be one.
    """
    room = NAME_LENGTH - len(prefix) - 1
    if isinstance(suffix, str) and re.fullmatch(r"[a-z0-9-]+", suffix) and len(suffix) <= room:
        return f"{prefix}-{suffix}"
    raise Unfit(f"1 to {room} lower-case letters, digits and hyphens")


# ---- checks of one value -----------------------------------------------------------------------------------------


def _number(low: float, high: float) -> Check:
    def checked(value: t.Any) -> float:
        if isinstance(value, str) and _DECIMAL.fullmatch(value.strip(" ")):
            value = float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        raise Unfit(f"a number from {low:g} to {high:.12g}")

    return checked


def _integer(low: int, high: int) -> Check:
    def checked(value: t.Any) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value.strip(" ")):
            value = int(value)
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise Unfit(f"a whole number from {low} to {high}")

    return checked


def _flag(value: t.Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise Unfit("true or false")


def _matching(pattern: re.Pattern[str], length: int, expected: str) -> Check:
    def checked(value: t.Any) -> str:
        # The length first: a pattern's time may grow with its square.
        if isinstance(value, str) and len(value) <= length and pattern.fullmatch(value):
            return value
        raise Unfit(expected)

    return checked


_file_name = _matching(
    _FILE, 100, "a file's name of at most 100 letters, digits, dots, hyphens and underscores, not beginning with a dot"
)


def _is_text(value: t.Any, length: int, besides: str = "") -> bool:
    """Whether it is text without control characters, but for those named, and without halves of surrogate pairs."""
    return (
        isinstance(value, str)
        and len(value) <= length
        and not any(
            (one < " " or "\x7f" <= one < "\xa0" or "\ud800" <= one <= "\udfff") and one not in besides for one in value
        )
    )


def _option_text(value: t.Any) -> str:
    if isinstance(value, (int, float)) and abs(value) < 1e20:
        return str(value)  # as Vac does, so true is "True"
    if _is_text(value, 16384, "\t\n\r"):
        return t.cast("str", value)
    raise Unfit("text of at most 16384 characters, of control characters only tabs and line ends")


def _model(value: t.Any) -> str:
    if isinstance(value, str) and value in MODELS:
        return MODELS[value]
    raise Unfit(f"one of {', '.join(MODELS)} (or, for virtual machines, {', '.join(VIRTUAL_MACHINES)})")


def _root_image(value: t.Any) -> str:
    text = value if isinstance(value, str) and len(value) <= 512 else ""
    if text.startswith("docker://"):
        try:
            reference = image_reference("root_image", text[len("docker://") :])
        except InputError:
            reference = ""
        if "@" in reference or (reference and is_name(reference)):  # an id is one of this host's own images
            return text
    elif text.startswith("/cvmfs/"):
        # In unpacked.cern.ch the name of an image has its tag: .../library/almalinux:9.
        if _is_normal(text.replace(":", "_")) and _is_repository(text.split("/")[2]):
            return text
    elif text:
        try:
            return check_url(text)
        except Unfit:  # what was expected is more than a URL; it is said below
            if _FILE.fullmatch(text) and text.endswith(".sif"):
                return text
    raise Unfit(
        "docker:// and an image's name with its tag or digest, or for Apptainer a path in a repository below /cvmfs, an"
        " http:// or https:// URL, or the name of a file NAME.sif that the site has; at most 512 characters"
    )


def _user_data(value: t.Any) -> str:
    try:
        return check_url(value)
    except Unfit as exc:
        if isinstance(value, str) and _FILE.fullmatch(value):
            return value
        raise Unfit(f"{exc}; or the name of a file that the site has for this pipe") from None


def _words(value: t.Any, expected: str) -> list[t.Any]:
    """A list, whether it is a JSON array or, as Vac has it, a string with blanks between the words."""
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list):
        return value
    raise Unfit(expected)


def _command(value: t.Any) -> tuple[str, ...]:
    expected = (
        "a program and its arguments, at most 64 words of at most 1024 characters; as a string only of letters, digits,"
        " blanks and ._/:=,@%+-, for no shell reads it; as an array of strings without control characters"
    )
    words = _words(value, expected)
    if isinstance(value, str) and not _PLAIN_WORDS.fullmatch(value):
        raise Unfit(expected)
    if not 1 <= len(words) <= 64 or not all(_is_text(word, 1024) for word in words) or not _PROGRAM.fullmatch(words[0]):
        raise Unfit(expected)
    return tuple(words)


def _is_normal(path: str) -> bool:
    return bool(_PATH.fullmatch(path)) and not {".", ".."} & set(path.split("/"))


def _is_repository(name: t.Any) -> bool:
    return isinstance(name, str) and len(name) <= 60 and bool(REPOSITORY.fullmatch(name))


def _repositories(value: t.Any) -> tuple[str, ...]:
    expected = "at most 64 fully qualified names such as lhcb.cern.ch, each of at most 60 characters"
    names = _words(value, expected)
    if len(names) > 64 or not all(_is_repository(name) for name in names):
        raise Unfit(expected)
    return tuple(dict.fromkeys(names))


def _is_work_folder(path: t.Any) -> bool:
    if not isinstance(path, str) or len(path) > 255 or not _is_normal(path):
        return False
    # Above one is as bad as below: the folder would hide it, or what the engine puts beside it.
    return not any(f"{path}/".startswith(f"{owned}/") or owned.startswith(f"{path}/") for owned in OWNED)


def _work_folders(value: t.Any) -> tuple[str, ...]:
    expected = (
        "at most 16 absolute paths of at most 255 letters, digits and ._+@=-, without . and .. and a slash at the end,"
        f" and none of, above or below {', '.join(OWNED)}"
    )
    paths = _words(value, expected)
    if len(paths) > 16 or not all(_is_work_folder(path) for path in paths):
        raise Unfit(expected)
    return tuple(dict.fromkeys(paths))


#: The two families of substitutions, as people are told of them.
SUBSTITUTIONS = ("user_data_option_NAME", "user_data_file_NAME")

#: Every key of a machinetype but ``suffix`` and the two families of substitutions.
KEYS: dict[str, Check] = {
    "target_share": _number(0, 1e9),
    "machinegroup": _matching(_GROUP, 255, "1 to 255 letters, digits and ._/=-"),
    "machine_model": _model,
    "root_image": _root_image,
    "user_data": _user_data,
    "container_command": _command,
    "cvmfs_repositories": _repositories,
    "tmp_binds": _work_folders,
    "min_processors": _integer(1, 4096),
    "max_processors": _integer(1, 4096),
    "min_wallclock_seconds": _integer(1, 366 * _DAY),
    "max_wallclock_seconds": _integer(1, 366 * _DAY),
    "backoff_seconds": _integer(0, 30 * _DAY),
    "fizzle_seconds": _integer(0, 30 * _DAY),
    "heartbeat_file": _file_name,
    "heartbeat_seconds": _integer(0, 30 * _DAY),
    "accounting_fqan": _matching(_FQAN, 255, "a VOMS FQAN such as /lhcb/Role=pilot, of at most 255 characters"),
    "disk_gb_per_processor": _integer(1, 100000),
    "user_data_proxy": _flag,
    "legacy_proxy": _flag,
}


# ---- checks of all values together -------------------------------------------------------------------------------


def conflicts(values: t.Mapping[str, t.Any]) -> list[Problem]:
    """What of several values, each right by itself, does not go together. Keys that are not there are not looked at."""
    found = []
    for what in ("processors", "wallclock_seconds"):
        low, high = values.get(f"min_{what}"), values.get(f"max_{what}")
        if low is not None and high is not None and low > high:
            found.append(Problem(f"min_{what}", str(low), f"no more than max_{what}, which is {high}"))
    model, image = values.get("machine_model"), values.get("root_image")
    if model in ("docker", "podman") and image is not None and not image.startswith("docker://"):
        found.append(
            Problem("root_image", shown(image), f"docker:// and an image's name, for machine_model is {model}")
        )
    for key in values:
        kind = substitution(key)
        if kind and kind[0] == "file" and f"user_data_option_{kind[1]}" in values:
            expected = f"only one of user_data_file_{kind[1]} and user_data_option_{kind[1]}"
            found.append(Problem(key, shown(values[key]), expected))
    return found


def build(name: str, target_share: float, given: t.Mapping[str, t.Any]) -> t.Union[Machinetype, list[Problem]]:
    """The machinetype that values make, or why they make none.

    :param target_share: its share of the space; the one in ``given`` is relative to its neighbours and is not read.
    :param given: by key, values that :func:`check` returned; among them ``machine_model``.
    """
    longest = given.get("max_wallclock_seconds", Machinetype.max_wallclock_seconds)
    defaults = {
        "max_wallclock_seconds": longest,
        "min_wallclock_seconds": longest,
        "min_processors": Machinetype.min_processors,
        "max_processors": Machinetype.max_processors,
        "container_command": Machinetype.container_command,
    }
    values = {**defaults, **given}
    problems = conflicts(values)
    if "root_image" not in values:
        problems.append(Problem("root_image", "", "the image that the machine is made from"))
    if "user_data" not in values and values["container_command"][0] == "/user_data":
        problems.append(Problem("user_data", "", "what is to run, for container_command is /user_data"))
    if problems:
        return problems
    image = values["root_image"]
    if values["machine_model"] != "apptainer":
        image = image[len("docker://") :]
    substitutions: dict[str, dict[str, str]] = {"option": {}, "file": {}}
    plain: dict[str, t.Any] = {}
    for key, value in values.items():
        kind = substitution(key)
        if kind:
            substitutions[kind[0]][kind[1]] = value
        else:
            plain[key] = value
    made = Machinetype(
        **{
            **plain,
            "name": name,
            "target_share": target_share,
            "root_image": image,
            "user_data_options": substitutions["option"],
            "user_data_files": substitutions["file"],
        }
    )
    return replace(made, machinegroup=made.group)
