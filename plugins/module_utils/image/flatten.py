# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flattening an image: observe, plan, apply."""

from __future__ import annotations

import json
import os
import secrets
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    EngineError,
    GridboxError,
    InputError,
    RefusedError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.host.boot_mark import (
    boot_mark,
    is_of_another_boot,
    remove_steps,
    warnings,
)
from ansible_collections.hep.gridbox.plugins.module_utils.image.archive import Archive
from ansible_collections.hep.gridbox.plugins.module_utils.image.configuration import (
    REFERENCE_LABEL,
    SOURCE_LABEL,
    differences,
    expected_configuration,
    flattened_document,
    image_document,
    load_archive,
)
from ansible_collections.hep.gridbox.plugins.module_utils.image.layer_stream import (
    LayerStream,
    header_digest,
    total_size,
)
from ansible_collections.hep.gridbox.plugins.module_utils.image.layers import layers
from ansible_collections.hep.gridbox.plugins.module_utils.image.merged_tree import MergedTree, punch, reachable_layers
from ansible_collections.hep.gridbox.plugins.module_utils.image.reference import image_name, image_reference, is_name
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan, Step

#: Images under construction bear a name of this repository until they have their own, with the mark of the boot.
WORKSHOP = "hep.gridbox/flatten"
_WORKSHOP_FILTER = json.dumps({"reference": [WORKSHOP]})
#: Seconds that the undo waits for an image which the engine had all of, but had not yet named, when it was cut off.
LATE = 60
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Wish:
    """What is asked for; the module's options, checked. ``tag`` is ``source`` if it is to be flattened in place."""

    source: str
    tag: str
    replace: bool
    keep_source: bool
    source_tag: t.Optional[str]
    method: str
    min_free: int

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """:raises InputError: for a value that cannot be right."""
        source = image_reference("source", params["source"])
        if params["tag"] is not None:
            tag = image_name("tag", params["tag"])
        elif is_name(source):
            tag = source
        else:
            raise InputError("tag", None, f"a name, for the source is not given by name ({source})")
        source_tag = params["source_tag"]
        if source_tag is not None:
            source_tag = image_name("source_tag", source_tag)
            if source_tag == tag:
                raise InputError("source_tag", source_tag, "another name than that of the flattened image")
            if not params["keep_source"]:
                raise InputError("source_tag", source_tag, "no value when keep_source is false")
        if "@" in source and not params["keep_source"]:
            raise InputError("source", source, "a name or an id when keep_source is false")
        if params["min_free"] < 0:
            raise InputError("min_free", params["min_free"], "a number of MiB, 0 or more")
        return cls(
            source, tag, params["replace"], params["keep_source"], source_tag, params["method"], params["min_free"]
        )

    @property
    def in_place(self) -> bool:
        return self.tag == self.source


@dataclass(frozen=True)
class Observed:
    """What the engine has.

    :ivar source: the image to flatten, as inspected; None if there is none.
    :ivar target: the image that has the wished tag now.
    :ivar origin: the image that ``source`` was flattened from, if it was.
    :ivar named_source_tag: the id of the image that has the name ``source_tag`` now.
    :ivar source_users: containers made from the source, and images built on it, by name; asked for only if the source
        shall go.
    :ivar tree: folders of the source's layers, the uppermost first; None if they cannot be read here.
    :ivar no_tree: why not.
    :ivar whole: whether the engine takes layer and configuration only together.
    :ivar root: the engine's data folder on this host; None if it is on another.
    :ivar leftovers: images under construction of a run that a power cut has ended, by name.
    """

    source: t.Optional[Json]
    target: t.Optional[Json]
    origin: t.Optional[str]
    named_source_tag: t.Optional[str]
    source_users: tuple[str, ...]
    tree: t.Optional[tuple[str, ...]]
    no_tree: str
    whole: bool
    root: t.Optional[str]
    leftovers: tuple[str, ...] = ()


def flatten_label(image: t.Optional[Json], label: str) -> t.Optional[str]:
    """A label of ours on an image of one layer. On more layers it is inherited from a flattened base image."""
    if image is None or layers(image) != 1:
        return None
    return t.cast(t.Optional[str], ((image.get("Config") or {}).get("Labels") or {}).get(label))


def make_plan(wish: Wish, observed: Observed) -> Plan:
    """Decide. Pure.

    :raises RefusedError: if it cannot be done, or would take something away that was not given up.
    """
    made = _flattening(wish, observed)
    return Plan((*remove_steps(observed.leftovers), *made.steps), made.before, made.after)


def _flattening(wish: Wish, observed: Observed) -> Plan:
    source, target = observed.source, observed.target
    if source is None:
        was = flatten_label(target, REFERENCE_LABEL)
        if wish.keep_source or wish.in_place or was != wish.source:
            raise RefusedError(
                f"source: {wish.source}",
                "the engine has no such image",
                "Pull or build it, or correct the name. Nothing was touched.",
            )
        state = {"tag": _state(target), "source": {}}
        return Plan(before=state, after=state)

    # An image of one layer has nothing to flatten. But if its name shall go, only the labels of a flattened image can
    # tell the next run where it came from.
    one_layer = layers(source) <= 1 and (wish.keep_source or wish.in_place)
    wanted = expected_configuration(source, wish.source)
    made = (
        flatten_label(target, SOURCE_LABEL) == source["Id"] and target is not None and not differences(wanted, target)
    )
    steps: list[Step] = []
    if one_layer:
        if target is None or target["Id"] != source["Id"]:
            _refuse_foreign_tag(wish, source, target)
            reason = "the source has one layer already"
            steps.append(Step("tag_image", wish.tag, reason, details={"image": source["Id"]}))
    elif not made:
        _refuse_foreign_tag(wish, source, target)
        if wish.method == "tree" and observed.tree is None:
            raise RefusedError("method: tree", observed.no_tree, "Use method: auto or archive. Nothing was touched.")
        count = layers(source)
        has = f"{wish.source} has {count} layer{'s' if count != 1 else ''}"
        if observed.whole:
            steps.append(Step("load_image", wish.tag, f"{has}; this engine takes the one with its configuration"))
        else:
            steps.append(Step("import_layer", wish.tag, has))
            steps.append(Step("make_image", wish.tag, "the layer has no configuration yet"))
        move = "it names nothing yet" if target is None else f"it names {_short(target)}"
        steps.append(Step("tag_image", wish.tag, f"{move}, not the flattened image"))

    original = observed.origin if one_layer and observed.origin else source["Id"]
    if wish.source_tag and observed.named_source_tag != original:
        if observed.named_source_tag and not wish.replace:
            raise RefusedError(
                f"source_tag: {wish.source_tag}",
                f"that name belongs to image {observed.named_source_tag[:19]}",
                "Choose another name, or allow it to move with replace: true. Nothing was touched.",
            )
        reason = "the source shall be found by this name"
        steps.insert(_before_tag(steps), Step("tag_source", wish.source_tag, reason, details={"image": original}))

    # Flattened in place, the name has left the source: what is left to remove is an image without a name.
    others = [name for name in source.get("RepoTags") or [] if _familiar(name) != wish.source]
    if not wish.keep_source and not (wish.in_place and (one_layer or others)):
        if not wish.in_place and not is_name(wish.source) and len(source.get("RepoTags") or []) > 1:
            raise RefusedError(
                "keep_source: false",
                f"the source, given by id, has several names ({', '.join(source['RepoTags'])})",
                "Give as source the name that shall go. Nothing was touched.",
            )
        if observed.source_users and not others:
            raise RefusedError(
                "keep_source: false",
                f"the source image is in use by {', '.join(observed.source_users)}",
                "Remove those first, or keep the source. Nothing was touched.",
            )
        reference = source["Id"] if wish.in_place else wish.source
        steps.append(Step("remove_source", reference, "keep_source is false", details={"image": source["Id"]}))

    before = {"tag": _state(target), "source": _state(source)}
    after = dict(before)
    if any(step.action == "tag_image" for step in steps):
        made_from = {"image": "to be made", "flattened_from": source["Id"], "layers": 1}
        after["tag"] = _state(source) if one_layer else made_from
    if any(step.action == "remove_source" for step in steps):
        after["source"] = {} if not others else before["source"]
    if wish.source_tag:
        before["source_tag"] = {"image": observed.named_source_tag}
        after["source_tag"] = {"image": original}
    return Plan(tuple(steps), before, after)


def _before_tag(steps: t.Sequence[Step]) -> int:
    """Where the source gets its further name: before it loses its old one."""
    return next((index for index, step in enumerate(steps) if step.action == "tag_image"), len(steps))


def _refuse_foreign_tag(wish: Wish, source: Json, target: t.Optional[Json]) -> None:
    if target is None or wish.replace or target["Id"] == source["Id"] or flatten_label(target, SOURCE_LABEL):
        return
    raise RefusedError(
        f"tag: {wish.tag}",
        f"that name belongs to image {_short(target)}, which was not made by this module",
        "Choose another name, or allow it to move with replace: true. Nothing was touched.",
    )


def _state(image: t.Optional[Json]) -> dict[str, t.Any]:
    if image is None:
        return {}
    return {"image": image["Id"], "flattened_from": flatten_label(image, SOURCE_LABEL), "layers": layers(image)}


def _short(image: Json) -> str:
    return str(image["Id"])[:19]


def _familiar(name: str) -> str:
    """A name as the engine lists it, as people write it: Podman puts ``localhost/`` before names without a registry."""
    return name.removeprefix("localhost/")


class Flatten:
    """The work of ``flatten_image`` for the front room."""

    def __init__(self, wish: Wish, engine: DockerApi) -> None:
        self._wish = wish
        self.subject = f"image {wish.tag} of {engine.url}"
        self._engine = engine
        run = f"{boot_mark()}-{secrets.token_hex(8)}"
        self._layer_name = f"{WORKSHOP}:{run}-layer"
        self._image_name = f"{WORKSHOP}:{run}-image"
        self._answered: set[str] = set()
        self._first: t.Optional[Observed] = None
        self._stream: t.Optional[LayerStream] = None
        self._document: Json = {}
        self._sockets = 0
        self._holes: dict[bytes, list[tuple[int, int]]] = {}
        self._began = 0.0
        self._seconds: t.Optional[float] = None

    @classmethod
    def from_params(cls, params: dict[str, t.Any]) -> Flatten:
        """:raises InputError: for a value that cannot be right."""
        return cls(Wish.from_params(params), engine_from(params))

    # ---- observe --------------------------------------------------------------------------------------------------

    def observe(self) -> Observed:
        wish, engine = self._wish, self._engine
        info = engine.info()
        source = engine.image(wish.source)
        target = source if wish.in_place else engine.image(wish.tag)
        origin_id = flatten_label(source, SOURCE_LABEL)
        origin = engine.image(origin_id) if origin_id and wish.source_tag else None
        named = engine.image(wish.source_tag) if wish.source_tag else None
        users: tuple[str, ...] = ()
        if source is not None and not wish.keep_source:
            users = self._users(source["Id"])
        root = info.get("DockerRootDir") or ""
        local = engine.url.startswith("unix://") and os.path.isdir(root)
        status = dict(pair for pair in info.get("DriverStatus") or [] if len(pair) == 2)
        whole = engine.platform.name == "podman" or "containerd" in str(status.get("driver-type", ""))
        tree: t.Optional[tuple[str, ...]] = None
        if not local:
            no_tree = "the engine does not keep its images on this host"
        elif whole:
            # Podman's Docker-compatible API leaves out the health check, the shell and the triggers.
            no_tree = "only in the archive of an image does this engine give its whole configuration"
        elif source is None or not layers(source):
            no_tree = "there is nothing to read"
        else:
            tree, no_tree = reachable_layers(source, info)
        observed = Observed(
            source=source,
            target=target,
            origin=origin["Id"] if origin else None,
            named_source_tag=named["Id"] if named else None,
            source_users=users,
            tree=tree,
            no_tree=no_tree,
            whole=whole,
            root=root if local else None,
            leftovers=self._leftovers() if local else (),
        )
        # The steps act on what the plan was made from; the second observation is for the result.
        self._first = self._first or observed
        return observed

    @property
    def _before(self) -> Observed:
        return t.cast(Observed, self._first)

    @property
    def _source(self) -> Json:
        """The source as the plan knows it; for steps, which there are only if it exists."""
        return t.cast(Json, self._before.source)

    def _users(self, image: str) -> tuple[str, ...]:
        """Containers made from an image and images built on it, for they forbid its removal."""
        containers = [
            f"container {container['Names'][0].lstrip('/')}"
            for container in self._engine.containers()
            if container.get("ImageID") == image
        ]
        listed = self._engine.call("Listing images", "GET", "/images/json", all="true") or []
        children = [f"image {child['Id'][:19]}" for child in listed if child.get("ParentId") == image]
        return tuple(sorted(containers + children))

    def _leftovers(self) -> tuple[str, ...]:
        """Of an engine on this host: elsewhere the boot's mark says nothing."""
        listed = self._engine.call("Listing unfinished images", "GET", "/images/json", filters=_WORKSHOP_FILTER) or []
        names = (_familiar(name) for image in listed for name in image.get("RepoTags") or [])
        return tuple(sorted(name for name in names if is_of_another_boot(name, f"{WORKSHOP}:")))

    # ---- plan -----------------------------------------------------------------------------------------------------

    def plan(self, observed: Observed) -> Plan:
        return make_plan(self._wish, observed)

    # ---- preflight ------------------------------------------------------------------------------------------------

    def preflight(self, plan: Plan, observed: Observed) -> None:
        if not any(step.action in ("import_layer", "load_image") for step in plan.steps):
            return
        files = self._files()
        if isinstance(files, Archive):
            if not os.path.isdir(files.folder):
                raise RefusedError(
                    f"TMPDIR: {files.folder}",
                    "there is no such folder for the temporary copy of the layers",
                    "Make it, or set TMPDIR in the task's environment. Nothing was touched.",
                )
            self._refuse_full(files.folder, self._source["Size"], 0, "a temporary copy of the layers")
        if observed.root is None:
            return
        # A whole image is unpacked from a copy that the engine makes first.
        copies = 2 if observed.whole else 1
        left = self._wish.min_free * MEBIBYTE
        try:
            # The sum of the layers is at hand, and never less than the merged tree.
            self._refuse_full(observed.root, self._source["Size"] * copies, left, "the flattened image")
        except RefusedError:
            if not isinstance(files, MergedTree):
                raise
            with files:
                size = total_size(files)
            self._refuse_full(observed.root, size * copies, left, "the flattened image")

    def _refuse_full(self, folder: str, needed: int, left: int, what: str) -> None:
        disk = os.statvfs(folder)
        free = disk.f_bavail * disk.f_frsize
        if free - needed < left:
            keep = f" and min_free keeps {left // MEBIBYTE} MiB" if left else ""
            raise RefusedError(
                f"source: {self._wish.source}",
                f"{what} needs up to {-(-needed // MEBIBYTE)} MiB in {folder}, where {free // MEBIBYTE} MiB are"
                f" free{keep}",
                "Make room, for instance by removing images that are not used. Nothing was touched.",
            )

    def _files(self) -> t.Union[MergedTree, Archive]:
        if self._before.tree is not None and self._wish.method != "archive":
            return MergedTree(self._before.tree)
        return Archive(self._engine, self._source["Id"])

    # ---- do -------------------------------------------------------------------------------------------------------

    def do(self, step: Step, journal: Journal) -> None:
        self._began = self._began or time.monotonic()
        getattr(self, f"_{step.action}")(step, journal)
        self._seconds = round(time.monotonic() - self._began, 3)

    def _remove_leftover(self, step: Step, _journal: Journal) -> None:
        self._engine.remove_image(step.target)

    def _import_layer(self, _step: Step, journal: Journal) -> None:
        """Stream the tree into the engine's import call."""
        with self._files() as files:
            self._document = self._read_document(files)
            # Until the engine has seen the end of the stream it names nothing, so there is nothing to undo.
            stream = LayerStream(files, lambda: self._will_name(self._layer_name, journal))
            self._send(self._layer_name, lambda: self._engine.import_layer(self._layer_name, stream))
            self._keep(stream, files)
        self._verify_layer(self._layer_name, stream)

    def _make_image(self, _step: Step, journal: Journal) -> None:
        """Give the imported layer the source's configuration."""
        stream = t.cast(LayerStream, self._stream)
        document = flattened_document(self._document, self._expected(), stream.diff_id)
        self._will_name(self._image_name, journal)
        archive = load_archive(document, self._image_name)
        self._send(self._image_name, lambda: self._engine.load_images(archive))
        self._verify_image()
        self._engine.remove_image(self._layer_name)

    def _load_image(self, _step: Step, journal: Journal) -> None:
        """Send layer and configuration as one archive.

        The layer's digest stands in the configuration, and its length before it in the archive. So it is made twice,
        rather than kept.
        """
        with self._files() as files:
            self._document = self._read_document(files)
            first = LayerStream(files, lambda: None)
            for _chunk in first:
                pass
            stream = LayerStream(files, lambda: self._will_name(self._image_name, journal))
            document = flattened_document(self._document, self._expected(), first.diff_id)
            archive = load_archive(document, self._image_name, first.bytes, stream)
            self._send(self._image_name, lambda: self._engine.load_images(archive))
            self._keep(stream, files)
        if stream.diff_id != first.diff_id:
            raise GridboxError("The files of the source image changed while they were read. Flatten again.")
        self._verify_layer(self._image_name, stream)
        self._verify_image()

    def _tag_source(self, step: Step, journal: Journal) -> None:
        self._tag(step.details["image"], step.target, journal)

    def _tag_image(self, step: Step, journal: Journal) -> None:
        """Move the tag to the verified image."""
        if "image" in step.details:
            self._tag(step.details["image"], step.target, journal)
            return
        made = self._inspect(self._image_name)
        self._tag(made["Id"], step.target, journal)
        # The image has its own name: from here on the new state is the good one, and a guard goes forward.
        journal.settle()
        journal.will_do(f"the working name {self._image_name} is removed", "remove_name", reference=self._image_name)
        self._engine.remove_image(self._image_name)

    def _remove_source(self, step: Step, journal: Journal) -> None:
        """Remove the source. The tag has moved, so the way back is closed and a guard goes forward."""
        journal.settle()
        journal.will_do(f"the source {step.target} is removed", "remove_name", reference=step.target)
        self._engine.remove_image(step.target)

    # ---- parts of do ----------------------------------------------------------------------------------------------

    def _will_name(self, name: str, journal: Journal) -> None:
        journal.will_do(f"the unfinished image {name} is removed", "remove_unfinished", reference=name)

    def _send(self, name: str, send: t.Callable[[], None]) -> None:
        """Send a stream that makes an image, and note whether the engine answered: then nothing can come late."""
        try:
            send()
        except EngineError as exc:
            if exc.status is not None:
                self._answered.add(name)
            raise
        self._answered.add(name)

    def _keep(self, stream: LayerStream, files: t.Union[MergedTree, Archive]) -> None:
        self._stream = stream
        self._sockets = files.sockets
        self._holes = files.holes

    def _read_document(self, files: t.Union[MergedTree, Archive]) -> Json:
        """The source's image document: as it is where there is an archive, else from what the engine says."""
        if isinstance(files, Archive):
            return files.document
        return image_document(self._source, self._engine.image_history(self._source["Id"]))

    def _expected(self) -> dict[str, t.Any]:
        return expected_configuration(self._source, self._wish.source)

    def _inspect(self, name: str) -> Json:
        image = self._engine.image(name)
        if image is None:
            raise GridboxError(
                f"The engine took the image, but has none named {name}. Somebody removed it; flatten again."
            )
        return image

    def _tag(self, image: str, name: str, journal: Journal) -> None:
        had = self._engine.image(name)
        old = had["Id"] if had else None
        if old != image:
            title = f"{name} names {old[:19] if old else 'nothing'} again"
            journal.will_do(title, "put_tag_back", tag=name, old=old, new=image)
            self._engine.tag_image(image, name)

    # ---- verification ---------------------------------------------------------------------------------------------

    def _verify_layer(self, name: str, stream: LayerStream) -> None:
        """Prove that the engine's one layer is what was read.

        The diff id proves each byte of the stream. What the engine made of it on its disk is proved where it can be
        read, by walking that too: same names, kinds, owners, modes, times, sizes, links and attributes.
        """
        image = self._inspect(name)
        found = (image.get("RootFS") or {}).get("Layers") or []
        if found != [stream.diff_id]:
            raise GridboxError(
                f"The engine's layers ({', '.join(found) or 'none'}) are not the one that was sent ({stream.diff_id})."
            )
        result, _why = self._reachable(image)
        if result is None:
            return
        with MergedTree(result) as tree:
            for path, ranges in self._holes.items():
                _punch(path, ranges)
            same_root = stream.root is None or next(tree.entries())[2:5] == stream.root[2:5]
            if header_digest(tree) != stream.header_digest or not (same_root or self._before.whole):
                raise GridboxError(
                    "The files that the engine unpacked differ from the source's in names, owners, modes, times, links"
                    " or extended attributes."
                )

    def _reachable(self, image: Json) -> tuple[t.Optional[tuple[str, ...]], str]:
        if self._before.root is None:
            return None, ""
        return reachable_layers(image, self._engine.info())

    def _verify_image(self) -> None:
        image = self._inspect(self._image_name)
        wrong = differences(self._expected(), image)
        if (image.get("RootFS") or {}).get("Layers") != [t.cast(LayerStream, self._stream).diff_id]:
            wrong.append("RootFS.Layers")
        if wrong:
            raise GridboxError(f"The flattened image differs from its source in {', '.join(wrong)}.")

    # ---- undo -----------------------------------------------------------------------------------------------------

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        engine = self._engine
        if name == "remove_unfinished":
            reference = data["reference"]
            deadline = time.monotonic() + (0 if reference in self._answered else LATE)
            while engine.image(reference) is None and time.monotonic() < deadline:
                time.sleep(0.1)
            engine.remove_image(reference)
        elif name == "put_tag_back":
            now = engine.image(data["tag"])
            if now is None or now["Id"] != data["new"]:
                return
            if data["old"]:
                engine.tag_image(data["old"], data["tag"])
            else:
                engine.remove_image(data["tag"])
        elif name == "remove_name":
            engine.remove_image(data["reference"])

    def before_guard_undo(self) -> None:
        self._engine.reset()
        # Whether the engine answered the process that died is not known here.
        self._answered.clear()

    # ---- result ---------------------------------------------------------------------------------------------------

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        first = self._before
        actions = {step.action for step in plan.steps}
        reads = bool(actions & {"import_layer", "load_image"})
        image: dict[str, t.Any] = {"id": None, "tag": self._wish.tag, "layers": 1, "size": None}
        made = first.source if "tag_image" in actions and not reads else observed.target
        if (applied or not reads) and made is not None:
            image.update(id=made["Id"], layers=layers(made), size=made["Size"])
        source = None
        if first.source is not None and "remove_source" not in actions:
            source = {"id": first.source["Id"], "layers": layers(first.source), "size": first.source["Size"]}
        sent = None
        if self._stream is not None:
            sent = {"bytes": self._stream.bytes, "entries": self._stream.entries, "sockets": self._sockets}
        method = None
        if reads:
            method = "tree" if first.tree is not None and self._wish.method != "archive" else "archive"
        return {
            "image": image,
            "source": source,
            "method": method,
            "transferred": sent,
            "seconds": self._seconds if applied else None,
            "warnings": warnings(plan, applied),
        }


def _punch(path: bytes, ranges: t.Sequence[tuple[int, int]]) -> None:
    try:
        punch(path, ranges, os.lstat(path).st_mtime_ns)
    except OSError as exc:
        raise GridboxError(f"The holes of {os.fsdecode(path)} cannot be made in the flattened image: {exc}.") from exc
