# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bootstrap image: busybox, a script, and folders. The script makes the rest of links into CernVM-FS.

It is imported as one layer, a tar that is the same in every run. The engine calls a layer by the SHA-256 of its tar, so
what the engine has is compared with what is wanted itself, not with a label that says so.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.repository import NAME, PATH
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import FACTORY
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH, run
from ansible_collections.hep.gridbox.plugins.module_utils.image.reference import image_name
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan, Step

#: Label of the image: the name it was made for. It finds what has lost the name since.
LABEL = "hep.gridbox.bootstrap_image"

#: In the image: busybox, what the script reads, and links for the commands it uses. It is outside of all that the
#: script links.
OWN = "gridbox"
ENTRYPOINT = [f"/{OWN}/bin/sh", "/init"]

#: Commands with a link; ``su`` is for what the machine runs. The others are there as ``/gridbox/busybox COMMAND``.
COMMANDS = ("cat", "chmod", "cp", "grep", "ln", "sh", "su", "tail")

#: Unix accounts, by name, with user and group number: what matches jobs, and what runs one. They are above the numbers
#: that distributions give.
PILOT = ("pilot", 40000)
PAYLOADS = tuple((f"payload{number:02d}", 40001 + number) for number in range(10))

#: What the script finds, and leaves as it is: folders that the machine may write into.
_FOLDERS = {
    "cvmfs": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "mnt": 0o755, "proc": 0o555, "root": 0o700,
    "run": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "usr/local": 0o755, "var": 0o755, "var/cache": 0o755,
    "var/lib": 0o755, "var/lock": 0o755, "var/log": 0o755, "var/spool": 0o755, "var/spool/joboutputs": 0o755,
    "var/tmp": 0o1777,
}  # fmt: skip
_LINKS = {"usr/tmp": "../var/tmp", "var/run": "../run"}


def layer(busybox: bytes, script: str, root: str) -> bytes:
    """The image's files as a tar; the same for the same input. Pure.

    :param busybox: the program.
    :param script: the entry point.
    :param root: the hierarchy that machines get their files from.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def add(name: str, mode: int, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), link
            if name.startswith("home/"):
                entry.uid = entry.gid = dict((PILOT, *PAYLOADS))[name[len("home/") :]]
            tar.addfile(entry, io.BytesIO(data))

        for folder, mode in _FOLDERS.items():
            add(folder, mode, tarfile.DIRTYPE)
        for name, link in _LINKS.items():
            add(name, 0o777, tarfile.SYMTYPE, link=link)
        add(f"home/{PILOT[0]}", 0o700, tarfile.DIRTYPE)
        for account, _number in PAYLOADS:
            add(f"home/{account}", 0o770, tarfile.DIRTYPE)  # the pilot is in its group
        add("init", 0o755, data=script.encode())
        for folder in (OWN, f"{OWN}/bin"):
            add(folder, 0o755, tarfile.DIRTYPE)
        add(f"{OWN}/busybox", 0o755, data=busybox)
        for command in COMMANDS:
            add(f"{OWN}/bin/{command}", 0o777, tarfile.SYMTYPE, link="../busybox")
        add(f"{OWN}/hierarchy", 0o644, data=f"{root}\n".encode())
        for file, text in account_files().items():
            add(f"{OWN}/{file}", 0o600 if file == "shadow" else 0o644, data=text.encode())
    return out.getvalue()


def account_files() -> dict[str, str]:
    """The lines of the accounts for passwd, group and shadow. Nobody can log in by a password. Pure."""
    accounts = (PILOT, *PAYLOADS)
    passwd = ["root:x:0:0:root:/root:/bin/sh"]
    passwd += [f"{name}:x:{number}:{number}::/home/{name}:/bin/sh" for name, number in accounts]
    members = {name: PILOT[0] for name, _number in PAYLOADS}
    group = ["root:x:0:"] + [f"{name}:x:{number}:{members.get(name, '')}" for name, number in accounts]
    shadow = [f"{name}:*:::::::" for name in ("root", *(name for name, _number in accounts))]
    return {name: "\n".join(lines) + "\n" for name, lines in (("passwd", passwd), ("group", group), ("shadow", shadow))}


def needs_libraries(program: bytes) -> bool:
    """Whether a program cannot run alone: it is no ELF program, or it names a dynamic linker. Pure."""
    if program[:4] != b"\x7fELF" or len(program) < 64:
        return True
    wide, order = program[4] == 2, "<" if program[5] == 1 else ">"
    offset = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", program, 32 if wide else 28)[0]
    size, count = struct.unpack_from(f"{order}HH", program, 54 if wide else 42)
    kinds = {
        struct.unpack_from(f"{order}I", program, offset + number * size)[0]
        for number in range(count)
        if offset + number * size + 4 <= len(program)
    }
    return 3 in kinds  # PT_INTERP


@dataclass(frozen=True)
class Wish:
    """The image as it is wanted.

    :ivar name: with its tag.
    :ivar script: text of the entry point.
    :ivar root: the hierarchy that machines get their files from, unless their environment names another.
    :ivar busybox: path of a static busybox on this host; empty: where the host's packages put it.
    :ivar leaving_factory: a factory whose containers are not in the way of a removal.
    """

    name: str
    script: str = ""
    root: str = ""
    busybox: str = ""
    remove: bool = False
    leaving_factory: str = ""

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        name, remove = image_name("name", params["name"]), params["state"] == "absent"
        if remove:
            return cls(name, remove=True, leaving_factory=params["leaving_factory"])
        script, root, busybox = params["script"], params["root"], params["busybox"] or ""
        if not script.startswith("#!"):
            raise InputError(
                "script",
                script[:40],
                "the text of the collection's file roles/vacuum_factory/files/bootstrap/init, which begins with #!",
            )
        parts = root.split("/")
        if (
            len(parts) < 3
            or parts[:2] != ["", "cvmfs"]
            or not NAME.fullmatch(parts[2])
            or not PATH.fullmatch(root)
            or os.path.normpath(root) != root
        ):
            raise InputError("root", root, "a folder of a repository, such as /cvmfs/cernvm-prod.cern.ch/cvm3")
        if busybox and not os.path.isabs(busybox):
            raise InputError("busybox", busybox, "an absolute path")
        return cls(name, script, root, busybox)


@dataclass(frozen=True)
class Observed:
    """What there is.

    :ivar image: the engine's record of the image; None if there is none.
    :ivar program: busybox; empty if the image is not wanted.
    :ivar left: ids of images that have lost the name, and are not used; asked for only if the image is not wanted.
    :ivar users: containers made from the image, by name; the same.
    """

    image: t.Optional[t.Mapping[str, t.Any]]
    program: bytes = b""
    left: tuple[str, ...] = ()
    users: tuple[str, ...] = ()

    @property
    def layer(self) -> str:
        """The image's only layer, if it is started as ours is; else empty."""
        if self.image is None:
            return ""
        layers = self.image["RootFS"].get("Layers") or []
        return str(layers[0]) if len(layers) == 1 and self.image["Config"].get("Entrypoint") == ENTRYPOINT else ""


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide. Pure."""
    before = {"image": wish.name if observed.image else "", "layer": observed.layer}
    if wish.remove:
        names = [*([wish.name] if observed.image else []), *observed.left]
        steps = tuple(Step("remove_image", name, "the image is not wanted") for name in names)
        return Plan(steps, before, {"image": "", "layer": ""})
    content = layer(observed.program, wish.script, wish.root)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if observed.layer == digest:
        return Plan((), before, before)
    reason = "there is none" if observed.image is None else "it is made of other files"
    step = Step("import_image", wish.name, reason, details={"layer": content})
    return Plan((step,), before, {"image": wish.name, "layer": digest})


class BootstrapImageWork:
    """The work of the module ``vacuum_bootstrap_image``; see ``front_room.Work``."""

    def __init__(self, wish: Wish, engine: DockerApi) -> None:
        self.wish = wish
        self.subject = f"image {wish.name} of {engine.url}"
        self.engine = engine

    @classmethod
    def from_params(cls, params: dict[str, t.Any]) -> BootstrapImageWork:
        """From a module's arguments."""
        return cls(Wish.from_params(params), engine_from(params))

    def observe(self) -> Observed:
        image = self.engine.image(self.wish.name)
        if not self.wish.remove:
            return Observed(image, self._program())
        containers = self.engine.containers()
        filters = json.dumps({"label": [f"{LABEL}={self.wish.name}"]})
        labelled = self.engine.call("Listing earlier images", "GET", "/images/json", filters=filters)
        nameless = [one["Id"] for one in labelled if set(one.get("RepoTags") or []) <= {"<none>:<none>"}]
        if self.wish.leaving_factory:
            theirs = self.wish.leaving_factory
            containers = [one for one in containers if (one.get("Labels") or {}).get(FACTORY) != theirs]
        used = {container["ImageID"] for container in containers}
        users = [one["Names"][0].lstrip("/") for one in containers if image and one["ImageID"] == image["Id"]]
        return Observed(image, b"", tuple(sorted(set(nameless) - used)), tuple(sorted(users)))

    def _program(self) -> bytes:
        path = self.wish.busybox or shutil.which("busybox", path=SYSTEM_PATH)
        wanted, remedy = f"busybox: {self.wish.busybox or 'not given'}", "Install the package busybox-static."
        if path is None:
            raise RefusedError(wanted, "there is none on this host", remedy)
        try:
            with open(path, "rb") as file:
                program = file.read()
        except OSError as exc:
            raise RefusedError(wanted, f"{path} cannot be read ({exc.strerror})", remedy) from exc
        if needs_libraries(program):
            raise RefusedError(wanted, f"{path} does not run without libraries, which the image has not", remedy)
        lacking = set(COMMANDS) - set(run(f"Asking {path} for its commands", [path, "--list"], 10).split())
        if lacking:
            raise RefusedError(wanted, f"{path} has no {', '.join(sorted(lacking))}", remedy)
        return program

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        if observed.users:
            raise RefusedError(
                f"removing {self.wish.name}",
                f"containers were made from it: {', '.join(observed.users)}",
                "Drain the factory, and run again when they are gone.",
            )

    def do(self, step: Step, journal: Journal) -> None:
        if step.action == "remove_image":
            self.engine.remove_image(step.target)
        else:
            # The name moves when the engine has the whole layer; machines that run keep the image they have.
            self.engine.import_layer(
                step.target,
                [step.details["layer"]],
                f"ENTRYPOINT {json.dumps(ENTRYPOINT)}",
                f'LABEL {LABEL}="{step.target}"',
            )

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        """Nothing is undone: the name moves in one step."""

    def before_guard_undo(self) -> None:
        self.engine.reset()

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        image = observed.image if applied or not plan.steps else None
        return {
            "image": image and {"id": image["Id"], "name": self.wish.name, "size": image["Size"]},
            "layer": plan.after["layer"],
        }
