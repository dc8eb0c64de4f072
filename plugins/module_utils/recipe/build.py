# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image made of a distribution's packages and some files, without a registry.

The base, which holds the packages, comes from a registry if that answers, else from ``mmdebstrap`` and the host's own
package mirrors. Files, commands and configuration are layers on top of it, made by the engine's builder.

A label holds the hash of the recipe, so an image whose recipe has not changed is not built again; a base has its hash
in its tag, so a changed file does not cost a new base.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import (
    DockerApi,
    read_messages,
    split_tag,
)
from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host.boot_mark import (
    boot_mark,
    is_of_another_boot,
    remove_steps,
    warnings,
)
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH, run_alone
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan, Step
from ansible_collections.hep.gridbox.plugins.module_utils.recipe import apt_sources

#: Label of a built image: the hash of its recipe.
RECIPE_LABEL = "hep.gridbox.image.recipe"
#: Label of a bootstrapped base, and of each build: the image it was made for. It finds what has lost its name since.
BASE_LABEL = "hep.gridbox.image.base_of"
#: Label of a built image: the revision of its recipe, if it has one.
REVISION_LABEL = "hep.gridbox.image.revision"
#: Counted into every recipe's hash: raise it when this file makes another image of the same recipe.
FORMAT = 1

#: Where a base is bootstrapped, and what the names of those folders begin with; the boot's mark follows.
_WORKSHOP, _PREFIX = "/var/tmp", "gridbox-base-"

#: Documentation and translations, which a service does not read; half of the size.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")

#: Installs packages into a base that came from a registry; does nothing if they are all there.
_IMAGE = r"[A-Za-z0-9][A-Za-z0-9._/:@-]*"
_INSTALL = (
    'dpkg-query -W "$@" >/dev/null 2>&1 || { apt-get -q update && DEBIAN_FRONTEND=noninteractive'
    ' apt-get -q -y --no-install-recommends install -- "$@" && rm -rf /var/lib/apt/lists/*; }'
)


@dataclass(frozen=True)
class File:
    """A file of the image."""

    path: str
    content: str
    mode: int


@dataclass(frozen=True)
class Recipe:
    """What the image is made of. Its JSON is what is hashed.

    :ivar suite: the distribution's release; empty for that of the host.
    :ivar mirrors: lines of ``sources.list``; empty for those of the host.
    :ivar commands: run in the image, one layer, as argument lists.
    :ivar revision: only told apart; another one takes in the packages of another day.
    """

    base: str
    suite: str
    mirrors: tuple[str, ...]
    packages: tuple[str, ...]
    files: tuple[File, ...]
    commands: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    ports: tuple[str, ...]
    volumes: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    revision: str = ""

    def digest(self) -> str:
        """SHA-256 of the recipe, in hexadecimal."""
        return self._digest(json.loads(json.dumps(self, default=vars)))

    def base_digest(self) -> str:
        """SHA-256 of what a bootstrapped base depends on."""
        depends = {"suite": self.suite, "mirrors": self.mirrors, "packages": self.packages, "revision": self.revision}
        return self._digest(depends)

    def _digest(self, data: dict[str, t.Any]) -> str:
        if not self.revision:
            del data["revision"]  # images that were made before there was one are still what they are
        return hashlib.sha256(json.dumps({"format": FORMAT, **data}, sort_keys=True).encode()).hexdigest()

    def dockerfile(self, base: str) -> str:
        """The builder's input. Every value is in JSON form or was checked, so none is taken for syntax."""
        lines = [f"FROM {base}"]
        if self.revision:  # first, so that the builder takes no layer of another revision from its cache
            lines.append(f"LABEL {REVISION_LABEL}={json.dumps(self.revision)}")
        if self.packages:
            lines.append("RUN " + json.dumps(["/bin/sh", "-c", _INSTALL, "install", *self.packages]))
        if self.files:
            lines.append("COPY files/ /")
        lines += ["RUN " + json.dumps(list(argv)) for argv in self.commands]
        if self.ports:
            lines.append("EXPOSE " + " ".join(self.ports))
        if self.volumes:
            lines.append("VOLUME " + json.dumps(list(self.volumes)))
        lines.append("CMD " + json.dumps(list(self.command)))
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Wish:
    """The image as it is wanted.

    :ivar name: with a tag or a digest.
    :ivar state: ``present``, ``pulled`` or ``absent``.
    :ivar pull_timeout: seconds in which a registry has to answer.
    :ivar bootstrap_timeout: seconds the bootstrap may take, and seconds without a word from the engine.
    """

    name: str
    recipe: Recipe
    state: str
    pull_timeout: int
    bootstrap_timeout: int

    @property
    def base_tag(self) -> str:
        """The name of a bootstrapped base of this recipe."""
        repository = self.name.rpartition(":")[0]
        return f"{repository}:base-{self.recipe.base_digest()[:12]}"

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        name, state = params["name"], params["state"]
        if state == "pulled":
            if not re.fullmatch(_IMAGE, name):
                raise InputError("name", name, "the name of an image, such as registry.example.org/vobox:1")
        elif not re.fullmatch(r"[a-z0-9][a-z0-9._/-]*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?", name):
            raise InputError("name", name, "an image name such as vobox:reference, in lower case, without a registry")
        for option in ("pull_timeout", "bootstrap_timeout"):
            if params[option] < 1:
                raise InputError(option, params[option], "a number of seconds of 1 or more")
        recipe = _recipe(params)
        name = name if "@" in name else ":".join(split_tag(name))
        return cls(name, recipe, state, params["pull_timeout"], params["bootstrap_timeout"])


def _recipe(params: t.Mapping[str, t.Any]) -> Recipe:
    if params["base"] and not re.fullmatch(_IMAGE, params["base"]):
        raise InputError("base", params["base"], "the name of an image, such as debian:bookworm-slim")
    if params["suite"] and not re.fullmatch(r"[a-z][a-z0-9-]*", params["suite"]):
        raise InputError("suite", params["suite"], "the name of a release, such as bookworm")
    for mirror in params["mirrors"]:
        if not apt_sources.parse_lines(mirror):
            raise InputError("mirrors", mirror, "a line as in sources.list: deb URI SUITE COMPONENT...")
    for package in params["packages"]:
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package):
            raise InputError("packages", package, "a package's name, without a version")
    files = []
    for index, given in enumerate(params["files"]):
        path = given["path"]
        if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
            raise InputError(f"files[{index}].path", path, "an absolute path without .. or a trailing slash")
        if not re.fullmatch(r"0?[0-7]{3,4}", given["mode"]):
            raise InputError(f"files[{index}].mode", given["mode"], "a mode in octal digits, such as '0644'")
        files.append(File(path, given["content"], int(given["mode"], 8)))
    for index, argv in enumerate(params["commands"]):
        if not argv:
            raise InputError(f"commands[{index}]", argv, "a command and its arguments")
    for port in params["ports"]:
        if not re.fullmatch(r"[0-9]{1,5}(/(tcp|udp|sctp))?", port):
            raise InputError("ports", port, "a port such as 3128 or 8884/udp")
    for path in params["volumes"]:
        if not re.fullmatch(r"/[A-Za-z0-9._/-]+", path):
            raise InputError("volumes", path, "an absolute path of letters, digits, dots, - and _")
    if not re.fullmatch(r"[A-Za-z0-9._-]*", params["revision"]):
        raise InputError("revision", params["revision"], "letters, digits, dots, - and _, such as 2026-12")
    return Recipe(
        base=params["base"] or "",
        suite=params["suite"] or "",
        mirrors=tuple(params["mirrors"]),
        packages=tuple(sorted(set(params["packages"]))),
        files=tuple(sorted(files, key=lambda one: one.path)),
        commands=tuple(tuple(argv) for argv in params["commands"]),
        command=tuple(params["command"]),
        ports=tuple(params["ports"]),
        volumes=tuple(params["volumes"]),
        labels=tuple(sorted((str(key), str(value)) for key, value in params["labels"].items())),
        revision=params["revision"],
    )


@dataclass(frozen=True)
class Observed:
    """What there is.

    :ivar image: the engine's record of the image; None if there is none.
    :ivar base_here: whether the base named in the recipe is on the host.
    :ivar registry: empty if a registry has the base; else why it cannot be had.
    :ivar own_base: whether a bootstrapped base of this recipe is on the host.
    :ivar bases: what was bootstrapped for this image, and what its earlier builds left.
    :ivar leftovers: folders of bootstraps that a power cut has ended.
    """

    image: t.Optional[t.Mapping[str, t.Any]]
    base_here: bool = False
    registry: str = "no base is named"
    own_base: bool = False
    bases: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()

    @property
    def recipe(self) -> str:
        """The hash in the image's label; empty if there is none."""
        if self.image is None:
            return ""
        return str((self.image["Config"].get("Labels") or {}).get(RECIPE_LABEL, ""))


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide what to pull, bootstrap, build and remove. Pure."""
    before = {"image": wish.name if observed.image else "", "recipe": observed.recipe}
    if wish.state == "pulled":
        pull = Step("pull_image", wish.name, "it is not on this host")
        return Plan(() if observed.image else (pull,), before, {**before, "image": wish.name})
    if wish.state == "absent":
        names = [*([wish.name] if observed.image else []), *observed.bases]
        steps = tuple(Step("remove_image", name, "the image is not wanted") for name in names)
        return Plan(steps, before, {"image": "", "recipe": ""})
    digest = wish.recipe.digest()
    tidy = remove_steps(observed.leftovers)
    if observed.recipe == digest:
        return Plan(tidy, before, before)
    reason = "there is none" if observed.image is None else "its recipe has changed"
    if observed.base_here:
        steps_base: tuple[Step, ...] = ()
        base = wish.recipe.base
    elif not observed.registry:
        steps_base = (Step("pull_base", wish.recipe.base, "the registry has it"),)
        base = wish.recipe.base
    else:
        base = wish.base_tag
        why = f"{observed.registry}, so it is bootstrapped from the distribution's packages"
        steps_base = () if observed.own_base else (Step("bootstrap_base", base, why),)
    build = Step("build_image", wish.name, reason, details={"base": base})
    return Plan((*tidy, *steps_base, build), before, {"image": wish.name, "recipe": digest})


class ImageWork:
    """The work of the module ``vobox_image``; see ``front_room.Work``."""

    def __init__(self, wish: Wish, engine: DockerApi) -> None:
        self.wish = wish
        self.subject = f"image {wish.name} of {engine.url}"
        self.engine = engine
        self._began = time.monotonic()

    @classmethod
    def from_params(cls, params: dict[str, t.Any]) -> ImageWork:
        """From a module's arguments.

        :raises InputError: for a value that cannot be right, on this host either.
        """
        wish = Wish.from_params(params)
        if wish.state == "present" and not wish.recipe.base and not wish.recipe.suite and not apt_sources.own_suite():
            raise InputError(
                "suite", None, "a release of Debian or Ubuntu, such as bookworm, for this host is neither",
                "Set suite and mirrors, or take an image of a registry (in the role vobox: vobox_image_pull).",
            )  # fmt: skip
        return cls(wish, engine_from(params))

    def observe(self) -> Observed:
        wish, engine = self.wish, self.engine
        image = engine.image(wish.name)
        if wish.state == "absent":
            return Observed(image, bases=tuple(self._bases()))
        if wish.state == "pulled":
            return Observed(image, registry="" if image else self._ask_registry(wish.name))
        observed = Observed(image, leftovers=_leftovers())
        if observed.recipe == wish.recipe.digest():
            return observed
        base = wish.recipe.base
        base_here = bool(base) and engine.image(base) is not None
        registry = "no base is named" if not base else "" if base_here else self._ask_registry(base)
        own_base = engine.image(wish.base_tag) is not None
        return Observed(image, base_here, registry, own_base, leftovers=observed.leftovers)

    def _bases(self) -> list[str]:
        """Names of the bases that were bootstrapped for the image, and ids of what earlier builds left nameless.

        The label is also on the image itself, and inherited by all that others made from it, so it alone does not tell.
        """
        filters = json.dumps({"label": [f"{BASE_LABEL}={self.wish.name}"]})
        found = self.engine.call("Listing the bases of the image", "GET", "/images/json", filters=filters)
        used = {container["ImageID"] for container in self.engine.containers()}
        prefix = f"{split_tag(self.wish.name)[0]}:base-"
        names: list[str] = []
        for image in found:
            tags = [tag for tag in image.get("RepoTags") or [] if tag != "<none>:<none>"]
            names += [tag for tag in tags if tag.startswith(prefix)]
            if not tags and image["Id"] not in used:
                names.append(image["Id"])
        return sorted(names)

    def _ask_registry(self, name: str) -> str:
        """Empty if a registry has the image; else why not."""
        try:
            self.engine.call(
                f"Asking the registry for {name}", "GET", f"/distribution/{name}/json", timeout=self.wish.pull_timeout
            )
        except EngineError as exc:
            why = " ".join(exc.answer.split()).rstrip(".")
            return f"no registry answered for {name} within {self.wish.pull_timeout} s, or it has none ({why})"
        return ""

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        for step in plan.steps:
            if step.action == "bootstrap_base":
                if shutil.which("mmdebstrap", path=SYSTEM_PATH) is None:
                    raise RefusedError(
                        f"bootstrapping {step.target}",
                        "there is no mmdebstrap on this host",
                        "Install the package mmdebstrap.",
                    )
                self._mirrors()
            elif step.action == "pull_image" and observed.registry:
                raise RefusedError(
                    f"name: {step.target}",
                    observed.registry,
                    "Check the name, that this host reaches the registry, and that its engine may log in there.",
                )

    def _suite(self) -> str:
        suite = self.wish.recipe.suite or apt_sources.own_suite()
        if not suite:
            raise RefusedError(
                "suite: not given",
                "this host is neither Debian nor Ubuntu, so it cannot be its own",
                "Set suite and mirrors.",
            )
        return suite

    def _mirrors(self) -> list[str]:
        if self.wish.recipe.mirrors:
            return list(self.wish.recipe.mirrors)
        suite = self._suite()
        found = [source.as_line() for source in apt_sources.for_suite(apt_sources.read(), suite)]
        if not found:
            raise RefusedError(
                "mirrors: not given", f"apt on this host has no source for {suite}", "Set mirrors, or another suite."
            )
        return found

    def do(self, step: Step, journal: Journal) -> None:
        if step.action == "remove_image":
            self.engine.remove_image(step.target)
        elif step.action in ("pull_base", "pull_image"):
            self.engine.pull_image(step.target, self.wish.bootstrap_timeout)
        elif step.action == "bootstrap_base":
            self._bootstrap(step.target)
        elif step.action == "remove_leftover":
            with contextlib.suppress(FileNotFoundError):  # a run for another image was quicker
                shutil.rmtree(step.target)
        else:
            self._build(step.target, step.details["base"])

    def _bootstrap(self, tag: str) -> None:
        recipe = self.wish.recipe
        with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{boot_mark()}-", dir=_WORKSHOP) as folder:
            archive = os.path.join(folder, "base.tar")
            argv = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--format=tar"]
            argv += [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
            # Else half of the time is waiting for the disk, and it becomes a tar. The image does not keep the option.
            argv += ["--dpkgopt=force-unsafe-io"]
            argv += ['--customize-hook=sed -i /^force-unsafe-io/d "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap']
            # Keys are of one machine. The packages make some when they are installed; no image may hold them.
            argv += ['--customize-hook=rm -f "$1"/etc/ssh/ssh_host_*', '--customize-hook=: > "$1"/etc/machine-id']
            argv += [f"--include={','.join(recipe.packages)}"] if recipe.packages else []
            argv += [self._suite(), archive, *self._mirrors()]
            run_alone(f"Bootstrapping {tag}", argv, self.wish.bootstrap_timeout, environment={"TMPDIR": folder})
            with open(archive, "rb") as file:
                self.engine.import_layer(
                    tag, iter(lambda: file.read(1 << 20), b""), f'LABEL {BASE_LABEL}="{self.wish.name}"'
                )

    def _build(self, name: str, base: str) -> None:
        recipe = self.wish.recipe
        params = {
            "t": name,
            "labels": json.dumps({**dict(recipe.labels), RECIPE_LABEL: recipe.digest(), BASE_LABEL: self.wish.name}),
            # Nothing has to be fetched for a base of our own.
            "networkmode": "none" if base == self.wish.base_tag else None,
            "rm": "true",
            "forcerm": "true",
        }
        request = f"Building {name}"
        headers = {"Content-Type": "application/x-tar"}
        context = build_context(recipe, base)
        answer = self.engine.send(
            request,
            "POST",
            "/build",
            data=context,
            headers=headers,
            params=params,
            stream=True,
            timeout=self.wish.bootstrap_timeout,
        )
        with contextlib.closing(answer):
            read_messages(request, answer.iter_lines(), answer.status_code)

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        """Nothing is undone: a tag moves only with a finished image, and a finished base is of use to the next run."""

    def before_guard_undo(self) -> None:
        self.engine.reset()

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        built = any(step.action in ("build_image", "pull_image") for step in plan.steps)
        known = observed.image is not None and (applied or not plan.steps)
        image = observed.image if known else None
        return {
            "image": None
            if image is None
            else {
                "id": image["Id"],
                "name": self.wish.name,
                "layers": len(image["RootFS"]["Layers"]),
                "size": image["Size"],
            },
            "recipe": plan.after["recipe"],
            "seconds": round(time.monotonic() - self._began, 1) if built and applied else None,
            "warnings": warnings(plan, applied),
        }


def _leftovers() -> tuple[str, ...]:
    """Folders of root's only: whoever may write to the workshop can make one with such a name."""
    with os.scandir(_WORKSHOP) as entries:
        return tuple(
            sorted(
                entry.path
                for entry in entries
                if is_of_another_boot(entry.name, _PREFIX)
                and entry.is_dir(follow_symlinks=False)
                and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            )
        )


def build_context(recipe: Recipe, base: str) -> bytes:
    """The builder's input as a tar: the Dockerfile and the files, all of them root's and of no time of their own."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        _add(tar, "Dockerfile", recipe.dockerfile(base), 0o644)
        folders: set[str] = set()
        for one in recipe.files:
            parts = one.path.strip("/").split("/")[:-1]
            for depth in range(len(parts)):
                folder = "files/" + "/".join(parts[: depth + 1])
                if folder not in folders:
                    folders.add(folder)
                    entry = tarfile.TarInfo(folder)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
            _add(tar, f"files{one.path}", one.content, one.mode)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, text: str, mode: int) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
