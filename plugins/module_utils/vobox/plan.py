# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decide what a VO-box needs. Pure: no engine, no file, no clock."""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.container_json import (
    beside_image,
    without_image_defaults,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import Values, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.mac import mac_of
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import Observed
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.privileges import Privileges, grantable
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.restart import CUT_SHORT

#: What the engine changes in a living container (POST /containers/x/update). Podman 4.3 has no such request.
IN_PLACE = ("restart_policy", "limits.memory", "limits.memory_swap", "limits.cpus", "limits.pids")

#: Log drivers whose files the engine rotates.
ROTATED = ("json-file", "local")

_NOFILE = 65536


@dataclass(frozen=True)
class Decision:
    """A plan, and what it leads to.

    :ivar values: the option values of the container afterwards; empty without one.
    :ivar image: id of its image afterwards.
    :ivar script: the init script's version afterwards.
    :ivar previous: the version before it afterwards.
    """

    plan: Plan
    values: Values = field(default_factory=dict)
    image: t.Optional[str] = None
    script: t.Optional[str] = None
    previous: t.Optional[str] = None


def decide(wish: Wish, seen: Observed) -> Decision:
    """What to do, and what it leads to.

    :raises InputError: for what is missing to create a VO-box.
    :raises RefusedError: for what the host lacks.
    """
    if wish.state == "absent":
        return _absent(wish, seen)
    wished = beside_image(wish.values, seen.image if seen.wished_image is None else seen.wished_image)
    if wish.privileges:
        wished.update(wish.privileges.values(_grantable(seen)))
    if wish.image is not None and seen.wished_image is None:
        raise RefusedError(
            f"image: {wish.image}",
            "there is no such image on this host",
            "Build, load or pull it first; this module never does.",
        )
    if wish.script_version and wish.script_version not in seen.files.versions:
        kept = ", ".join(seen.files.versions) or "none"
        raise InputError("init_script_version", wish.script_version, f"a version that is kept on this host ({kept})")
    return _create(wish, wished, seen) if seen.container is None else _change(wish, wished, seen)


# ---- nothing there yet -------------------------------------------------------------------------------------------


def _create(wish: Wish, wished: Values, seen: Observed) -> Decision:
    for option, given, what in (
        ("image", wish.image, "an image"),
        ("hostname", wished.get("hostname"), "an FQDN"),
        ("network", wished.get("network.name"), "a network and an address"),
        ("network", wished.get("network.ipv4") or wished.get("network.ipv6"), "network.ipv4, network.ipv6 or both"),
    ):
        if not given:
            raise InputError(
                option, None, f"{what}, for there is no container {wish.name} yet and it has to be created"
            )
    image = str((seen.wished_image or {})["Id"])
    values = _complete({**_defaults(wished, seen), **wished}, wished)
    steps = [_leftover_step(wish, seen)]
    steps += _script_steps(wish, seen, launched=False)
    steps.append(
        Step("create_container", wish.name, "there is no such container", details={"values": values, "image": image})
    )
    if wish.state == "started":
        steps.append(Step("start_container", wish.name, "state: started"))
    steps.append(_services_step(wish, seen))
    after = {**_shown(wished), "state": wish.state, "image": image}
    return _decision(wish, seen, steps, {"state": "absent"}, after, values, image)


def _defaults(wished: Values, seen: Observed) -> dict[str, t.Any]:
    """What is pinned in a new VO-box although nobody asked: engines changed their minds about each of these."""
    nofile, nproc, process = _NOFILE, None, seen.process
    if process is not None and not process.raises_limits:
        nofile = min(nofile, process.hard_limits.get("Max open files") or nofile)
        if seen.platform.name == "podman":
            # It sets this limit too as soon as any other is set, and higher than it may here.
            nproc = process.hard_limits.get("Max processes")
    values = {
        "network.mac": mac_of(wished["hostname"]),
        "limits.nofile": (nofile, nofile),
        "limits.nproc": (nproc, nproc) if nproc else None,
        "limits.core": (0, 0),
        "limits.pids": 32768,
        "limits.memory": 0,
        "limits.cpus": 0.0,
        "limits.shm_size": 64 << 20,
        "log.driver": "json-file",
        "log.max_size": 10 << 20,
        "log.max_file": 5,
        "restart_policy": "unless-stopped",
        "stop_timeout": 30,
        "sysctls": {},
        **Privileges("least").values(frozenset()),
    }
    if wished.get("network.ipv6"):
        # An address that the LAN's router makes the kernel add, and its route, compete with the fixed ones.
        values["sysctls"] = {
            f"net.ipv6.conf.{links}.{key}": "0" for links in ("all", "default") for key in ("accept_ra", "autoconf")
        }
    return values


# ---- something is there ------------------------------------------------------------------------------------------


def _change(wish: Wish, wished: Values, seen: Observed) -> Decision:
    now = seen.values
    _refuse_log_size(wish, {**now, **wished})
    old_image = str((seen.container or {})["Image"])
    image = str(seen.wished_image["Id"]) if seen.wished_image is not None else old_image
    different = [key for key in wished if now.get(key) != wished[key] and not _untold(key, seen)]
    in_place = [
        key for key in different if seen.platform.name == "docker" and _changed_in_place(key, wished[key], seen)
    ]
    reasons = _reasons(wished, now, [key for key in different if key not in in_place])
    if image != old_image:
        reasons.insert(0, f"image: {_short(image)} instead of {_short(old_image)}")
    values = _complete({**without_image_defaults(now, seen.image), **wished}, wished) if reasons else {**now, **wished}
    if not reasons and "limits.memory" in in_place:
        values = _complete(values, wished)

    steps = [_leftover_step(wish, seen)]
    running = seen.running
    if (running or seen.restarting) and wish.state == "stopped":
        steps.append(Step("stop_container", wish.name, "state: stopped", Disruption.container))
        running = False
    elif seen.cut_short and wish.state == "stopped":
        steps.append(Step("stop_container", wish.name, f"state: stopped, and {CUT_SHORT}"))
    elif seen.restarting and reasons:
        steps.append(
            Step(
                "stop_container", wish.name, "it ends again and again, and has no service to lose", Disruption.container
            )
        )
    replaces = bool(reasons)
    restarts = bool(seen.renewed) and running and not replaces
    resumes = seen.cut_short and wish.state != "stopped"
    steps += _script_steps(wish, seen, launched=running and not replaces and not restarts)
    if replaces:
        values["network.others"] = _attachments(wish, seen, values, reasons)
        for option, given in (("hostname", values.get("hostname")), ("network", _fixed(values))):
            if not given:
                raise InputError(
                    option,
                    None,
                    f"a value, for {wish.name} has to be replaced and has none of its own ({'; '.join(reasons)})",
                )
        steps.append(
            Step(
                "swap_container", wish.name, "; ".join(reasons), Disruption.container,
                {"values": values, "image": image, "running": running, "start": wish.state == "started" or resumes},
            )
        )  # fmt: skip
    if restarts:
        steps.append(
            Step(
                "restart_container", wish.name, f"{' and '.join(seen.renewed)} renewed on the host", Disruption.service
            )
        )
    if resumes and not replaces:
        steps.append(Step("restart_container", wish.name, CUT_SHORT))
    elif wish.state == "started" and not running and not replaces:
        if seen.restarting:
            steps.append(Step("restart_container", wish.name, "it ends again and again", Disruption.service))
        else:
            steps.append(Step("start_container", wish.name, "state: started"))
    if in_place and not replaces:
        # After all that may fail: a limit where there was none is not taken away again by the engine.
        changes = {key: values[key] for key in IN_PLACE if values.get(key) != now.get(key)}
        undo = {key: now[key] for key in changes}
        if "restart_policy" in undo:
            undo["restart_policy.retries"] = now["restart_policy.retries"]
        steps.append(
            Step(
                "update_container",
                wish.name,
                "; ".join(_reasons(wished, now, in_place)),
                details={"to": changes, "from": undo},
            )
        )
    steps.append(_services_step(wish, seen))
    before = {**_shown({key: now.get(key) for key in wished}), "state": _state(seen)}
    after = {
        **_shown(wished),
        "state": wish.state if wish.state != "present" else "started" if resumes else _state(seen),
    }
    if wish.image is not None:
        before["image"], after["image"] = old_image, image
    return _decision(wish, seen, steps, before, after, values, image)


def _untold(key: str, seen: Observed) -> bool:
    """Podman 4.3 does not tell addresses and MAC of a container that does not run; they are as they were created."""
    addresses = ("network.ipv4", "network.ipv6", "network.mac")
    return seen.platform.name == "podman" and not seen.running and key in addresses and seen.values.get(key) is None


def _changed_in_place(key: str, value: t.Any, seen: Observed) -> bool:
    host = (seen.container or {}).get("HostConfig") or {}
    if key == "limits.cpus" and (host.get("CpuQuota") or host.get("CpuPeriod")):
        return False  # the engine keeps to the way in which it was set first (docker run --cpu-quota)
    # 0 means "as it was" to the engine's request, so these two limits cannot be taken away by it.
    return key in IN_PLACE and not (key in ("limits.memory", "limits.cpus") and not value)


def _complete(values: dict[str, t.Any], wished: Values) -> dict[str, t.Any]:
    """Values that follow from others."""
    memory, both = values.get("limits.memory") or 0, values.get("limits.memory_swap")
    if "limits.memory_swap" not in wished and (both is None or -1 < both < memory or "limits.memory" in wished):
        values["limits.memory_swap"] = memory
    if values.get("log.driver") not in ROTATED:
        values["log.max_size"] = values["log.max_file"] = None
    elif "log.driver" in wished:
        values["log.max_size"] = values.get("log.max_size") or 10 << 20
        values["log.max_file"] = values.get("log.max_file") or 5
        values["log.others"] = {}
    for key in ("network.ipv4", "network.ipv6"):
        if str(values.get(key)).endswith("(not fixed)"):
            values[key] = values[key].split()[0]
    if not values.get("network.mac") and values.get("hostname"):
        values["network.mac"] = mac_of(values["hostname"])
    if "volumes" in wished:
        values["volumes.anonymous"] = ()
    return values


def _attachments(wish: Wish, seen: Observed, values: Values, reasons: t.Sequence[str]) -> dict[str, t.Any]:
    """The other networks that a swap takes along: the new container is connected to them beside the old one.

    :raises RefusedError: for one on which the two cannot be at the same time.
    """
    others = {name: end for name, end in seen.values["network.others"].items() if name != values["network.name"]}
    for name, endpoint in others.items():
        why = ""
        if endpoint.get("IPAMConfig"):
            fixed = ", ".join(map(_text, endpoint["IPAMConfig"].values()))
            why = f"with the fixed address {fixed}, which the old and the new container cannot have at the same time"
        elif seen.platform.name != "docker":
            why = f"and a swap with {seen.platform} cannot take that along"
        if why:
            raise RefusedError(
                f"name: {wish.name}",
                f"it is on the network {name} too, {why}",
                f"Disconnect it first ({seen.platform.name} network disconnect {name} {wish.name}), run again, and"
                f" connect it afterwards; the change needs a new container because of {'; '.join(reasons)}.",
            )
    return others


def _refuse_log_size(wish: Wish, values: Values) -> None:
    """
    :raises RefusedError: for a size or number of log files that the log driver, which nobody asked for, does not know.
    """
    driver = values.get("log.driver")
    for option in ("log.max_size", "log.max_file"):
        if option in wish.values and driver not in ROTATED:
            raise RefusedError(
                f"{option}: {wish.values[option]}",
                f"the log driver of {wish.name} is {driver}, which has no such option",
                f"Set log.driver beside it ({' or '.join(ROTATED)}), or leave {option} out.",
            )


def _fixed(values: Values) -> bool:
    return bool(values.get("network.name") and (values.get("network.ipv4") or values.get("network.ipv6")))


# ---- the init script ---------------------------------------------------------------------------------------------


def _script_steps(wish: Wish, seen: Observed, launched: bool) -> list[Step]:
    """
    :param launched: whether the container runs and goes on running, so that it must launch the version asked for.
    """
    files, version = seen.files, wish.script_sha256
    if version is None:
        return []
    steps = []
    reason = ""
    if files.current is None:
        reason = f"there is none yet, {version[:12]} is asked for"
    elif files.drift:
        reason = f"somebody edited it by hand ({(files.content or 'gone')[:12]} instead of {files.current[:12]})"
    elif files.current != version:
        reason = f"{version[:12]} instead of {files.current[:12]}"
    elif not files.runner:
        reason = "its runner is of another release"
    if reason:
        steps.append(
            Step(
                "write_init_script", wish.name, reason, Disruption.none,
                {"text": wish.script, "version": version, "restart": launched and bool(seen.values.get("init_script"))},
            )
        )  # fmt: skip
    stale = files.current != version or files.drift or seen.launch.version != version
    if launched and seen.values.get("init_script") and stale:
        ran = (seen.launch.version or "nothing")[:12]
        steps.append(
            Step(
                "restart_services",
                wish.name,
                f"the services run what {ran} started",
                Disruption.service,
                {"version": version},
            )
        )  # fmt: skip
    return steps


def _previous(wish: Wish, seen: Observed) -> t.Optional[str]:
    """The version before, once the init script asked for is current."""
    files, version = seen.files, wish.script_sha256
    if version is None:
        return files.previous
    if files.drift:
        return files.content if files.content != version else None
    if files.current not in (None, version):
        return files.current
    return files.previous if files.previous != version else None


# ---- absent ------------------------------------------------------------------------------------------------------


def _absent(wish: Wish, seen: Observed) -> Decision:
    steps = [_leftover_step(wish, seen)]
    before = {"state": "absent"}
    if seen.container is not None:
        before = {"state": _state(seen)}
        steps.append(Step("remove_container", wish.name, "state: absent", Disruption.container))
    if seen.kept:
        steps.append(Step("remove_container", seen.kept, "state: absent, and it was kept by a swap"))
    if seen.files.exists:
        steps.append(Step("remove_files", f"{wish.files}/{wish.name}", "state: absent"))
    return _decision(wish, seen, steps, before, {"state": "absent"}, {}, None)


# ---- small things ------------------------------------------------------------------------------------------------


def _leftover_step(wish: Wish, seen: Observed) -> t.Optional[Step]:
    if not seen.leftovers:
        return None
    return Step(
        "clear_leftovers",
        wish.name,
        f"an interrupted swap left {' and '.join(seen.leftovers)} behind",
        Disruption.container,
    )


def _services_step(wish: Wish, seen: Observed) -> t.Optional[Step]:
    if wish.services is None or wish.services == seen.files.services:
        return None
    names = ", ".join(f"{service.name} ({service.port}/{service.protocol})" for service in wish.services) or "none"
    return Step("remember_services", wish.name, f"declared now: {names}")


def _decision(
    wish: Wish,
    seen: Observed,
    steps: t.Sequence[t.Optional[Step]],
    before: dict[str, t.Any],
    after: dict[str, t.Any],
    values: Values,
    image: t.Optional[str],
) -> Decision:
    if wish.services is not None:
        before["services"] = [asdict(service) for service in seen.files.services or ()]
        after["services"] = [asdict(service) for service in wish.services]
    version = wish.script_sha256
    if wish.state != "absent" and version:
        before["init_script.sha256"], after["init_script.sha256"] = seen.files.content, version
        if wish.script is not None:
            before["init_script"], after["init_script"] = seen.files.text, wish.script
    kept = tuple(step for step in steps if step is not None)
    plan = Plan(kept, before, after if kept else before)
    return Decision(
        plan, values, image, None if wish.state == "absent" else version or seen.files.current, _previous(wish, seen)
    )


def _reasons(wished: Values, now: Values, keys: t.Iterable[str]) -> list[str]:
    reasons = []
    for key in keys:
        # What a profile amounts to is many values; the list of capabilities is what tells.
        if key == "init_script":
            reasons.append("init_script: it does not run one of this module yet")
        else:
            reasons.append(f"{key}: {_text(wished[key])} instead of {_text(now.get(key))}")
    return reasons


def _text(value: t.Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return str(value)


def _shown(values: Values) -> dict[str, t.Any]:
    """Values as JSON, without the marker that an init script is asked for."""
    return {key: _json(value) for key, value in values.items() if key != "init_script"}


def _json(value: t.Any) -> t.Any:
    if isinstance(value, (tuple, list)):
        return [_json(item) for item in value]
    return value


def _short(image: str) -> str:
    return image.split(":", 1)[-1][:12]


def _state(seen: Observed) -> str:
    return "started" if seen.running or seen.restarting else "stopped"


def _grantable(seen: Observed) -> frozenset[str]:
    if seen.process is None:
        return frozenset()
    return grantable(seen.process.capabilities, seen.platform.name, seen.platform.version)
