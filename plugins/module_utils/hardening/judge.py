# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Judge a host: each control passes, fails or is waived, with what was found. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.hardening import host_state, later
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.controls import (
    CONTROLS,
    MODULES,
    SSHD,
    strictness,
)
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.host_state import Host
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.limits import Need


@dataclass(frozen=True)
class Finding:
    """What was found for one control.

    :ivar status: ``pass``, ``fail`` or ``waived``.
    :ivar finding: one sentence with the values.
    """

    id: str
    title: str
    reason: str
    status: str
    finding: str
    waiver: str = ""

    def as_result(self) -> dict[str, str]:
        """As it stands in the module's result."""
        return dict(vars(self))


def audit(host: Host, need: Need, waived: t.Mapping[str, str], max_offset: float) -> list[Finding]:
    """All controls, in their order.

    :param need: what the host needs, worked out with the values it has now.
    :param max_offset: seconds by which the clock may be wrong.
    """
    findings = []
    for control in CONTROLS:
        good, sentence = judge(control.id, host, need, max_offset)
        status = "waived" if control.id in waived else "pass" if good else "fail"
        findings.append(
            Finding(control.id, control.title, control.reason, status, sentence, waived.get(control.id, ""))
        )
    return findings


def judge(control: str, host: Host, need: Need, max_offset: float) -> tuple[bool, str]:
    """Whether a control holds, also after the next boot, and what was found."""
    good, found = _judge_now(control, host, need, max_offset)
    overruled = later.weaker(control, host, need)
    return (False, f"{found}; {overruled}") if overruled else (good, found)


def _judge_now(control: str, host: Host, need: Need, max_offset: float) -> tuple[bool, str]:
    if control in need.sysctls:
        return _sysctls(host, need.sysctls[control])
    if control in SSHD:
        return _sshd(host, SSHD[control])
    if control == "time_sync":
        return _time(host, max_offset)
    judges: dict[str, t.Callable[[], tuple[bool, str]]] = {
        "nofile": lambda: _nofile(host, need),
        "nproc": lambda: _nproc(host, need),
        "systemd_limits": lambda: _systemd(host, need),
        "forwarding": lambda: (
            not host.forwarding_off,
            f"switched off by {', '.join(host.forwarding_off)}" if host.forwarding_off else "no file switches it off",
        ),
        "user_namespaces": lambda: _user_namespaces(host),
        "autofs": lambda: _autofs(host),
        "core_dumps": lambda: _core_dumps(host),
        "kernel_modules": lambda: _modules(host),
    }
    return judges[control]()


def _sysctls(host: Host, wanted: t.Mapping[str, int]) -> tuple[bool, str]:
    parts, good = [], True
    for name, value in wanted.items():
        now = host.sysctls.get(name)
        if now is None or now < value:
            good = False
            parts.append(f"{name} is {'not there' if now is None else now}, expected {value}")
        else:
            parts.append(f"{name} is {now}")
    return good, "; ".join(parts)


def _logins(host: Host) -> dict[str, int]:
    return later.logins(host.files.get(host_state.LIMITS_FILE) or "")


def _nofile(host: Host, need: Need) -> tuple[bool, str]:
    limits = _logins(host)
    soft, hard = limits.get("* soft nofile", 0), limits.get("* hard nofile", 0)
    if hard > host.nr_open:
        return False, f"the hard limit {hard} is above fs.nr_open {host.nr_open}, so logins do not get it"
    good = soft >= need.nofile[0] and hard >= need.nofile[1]
    expected = "" if good else f", expected {need.nofile[0]} and {need.nofile[1]}"
    return good, f"logins are given {soft or 'no'} (soft) and {hard or 'no'} (hard){expected}"


def _nproc(host: Host, need: Need) -> tuple[bool, str]:
    hard = _logins(host).get("* hard nproc", 0)
    good = hard >= need.nproc
    return good, f"logins are given {hard or 'no limit of ours'}{'' if good else f', expected {need.nproc}'}"


def _core_dumps(host: Host) -> tuple[bool, str]:
    hard = _logins(host).get("* hard core")
    return hard == 0, "logins make none" if hard == 0 else "logins have no limit of ours, expected 0"


def _modules(host: Host) -> tuple[bool, str]:
    text = host.files.get(host_state.MODULES_FILE) or ""
    free = [name for name in MODULES if f"install {name} /bin/true\n" not in text]
    if free:
        return False, f"nothing keeps {', '.join(free)} from being loaded"
    loaded = f"; {', '.join(host.loaded)} stays until the next boot" if host.loaded else ""
    return True, f"{', '.join(MODULES)} are not loaded any more{loaded}"


def _systemd(host: Host, need: Need) -> tuple[bool, str]:
    if host.default_nofile is None:
        return True, "systemd is not PID 1 here, so there are no services of its own"
    soft, hard = host.default_nofile
    good = services_have(host, need.nofile)
    expected = "" if good else f", expected {need.nofile[0]} and {need.nofile[1]}"
    return good, f"services are given {soft} (soft) and {hard} (hard){expected}"


def services_have(host: Host, nofile: tuple[int, int]) -> bool:
    """Whether systemd gives its services a soft and a hard limit of open files, or more."""
    return host.default_nofile is not None and all(now >= least for now, least in zip(host.default_nofile, nofile))


def _user_namespaces(host: Host) -> tuple[bool, str]:
    if host.userns:
        return False, host.userns
    if host.userns_confined:
        return True, f"{host.userns_confined}: only programs with an AppArmor profile that allows it may make them"
    return True, "nothing forbids them"


def warnings(host: Host, waived: t.Container[str]) -> list[str]:
    """What holds, and may still not do for every VO-box. Whether it does, only the site knows."""
    if not host.userns_confined or host.userns or "user_namespaces" in waived:
        return []
    advice = (
        "Apptainer's package has such a profile, an Apptainer in /cvmfs has none. If pilots in VO-boxes need it, load a"
        " profile for it or set the sysctl to 0; if none does, switch the control user_namespaces off with the reason."
    )
    return [f"control user_namespaces: {_user_namespaces(host)[1]}. {advice}"]


def _autofs(host: Host) -> tuple[bool, str]:
    if host.automount:
        serving = f" and serves {', '.join(host.automounts)}" if host.automounts else ""
        return False, f"an automount daemon runs{serving}"
    if host.autofs and not host.autofs.startswith("masked/"):
        return False, f"autofs.service is {host.autofs.replace('/', ' and ')}, expected masked"
    return True, "autofs.service is masked" if host.autofs else "it is not installed"


def _time(host: Host, max_offset: float) -> tuple[bool, str]:
    if host.clock.get("service") != "chrony":
        return False, host.clock.get("service") or "chrony is not installed"
    stratum, offset = host.clock["stratum"], host.clock["offset"]
    if stratum == 0:
        return False, "chrony runs, but has no source of time yet"
    good = offset <= max_offset
    expected = "" if good else f", expected at most {max_offset:g} s"
    return good, f"chrony runs, stratum {stratum}, the clock is off by {offset:.6f} s{expected}"


def _sshd(host: Host, wanted: t.Mapping[str, str]) -> tuple[bool, str]:
    if host.sshd is None:
        return True, "there is no sshd"
    wrong = differing(host.sshd, wanted)
    if wrong:
        return False, "; ".join(f"{name} is {now}, expected {value}" for name, now, value in wrong)
    return True, "; ".join(f"{name} is {host.sshd[name.lower()]}" for name in wanted)


def differing(settings: t.Mapping[str, str], wanted: t.Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Name, effective and wanted value of the settings that are laxer than wanted."""
    found = []
    for name, value in wanted.items():
        now = settings.get(name.lower(), "not known to this sshd")
        if strictness(name, now) < strictness(name, value):
            found.append((name, now, value))
    return found
