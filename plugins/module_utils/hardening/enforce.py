# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a host's limits and its sshd to what the controls ask for: drop-in files, and one reload of their readers."""

from __future__ import annotations

import os
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.hardening import (
    controls,
    host_state,
    judge,
    later,
    limits,
    way_back,
)
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.host_state import Host
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.limits import Need
from ansible_collections.hep.gridbox.plugins.module_utils.host import record
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.host.text_file import read_text
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step

HEADER = "# Written by hep.gridbox (host_controls).\n"

#: Within which sshd has read its configuration again; it takes milliseconds.
RELOAD_SECONDS = 20.0

#: Who has to read a file again.
READERS = {
    host_state.SYSCTL_FILE: "load_sysctls",
    host_state.SYSTEMD_FILE: "reload_systemd",
    host_state.SSHD_FILE: "reload_sshd",
}


@dataclass(frozen=True)
class Wish:
    """What the host is for, and which controls are off.

    :ivar nofile: soft and hard limit of open files per process.
    :ivar waived: control to the reason for which it is off.
    :ivar max_offset: seconds by which the clock may be wrong.
    :ivar absent: take everything of ours away.
    :ivar prove: whether a change of sshd is taken back by the host unless it is kept within ``proof_timeout`` seconds.
    """

    voboxes: int
    lan_peers: int
    nofile: tuple[int, int]
    waived: t.Mapping[str, str]
    max_offset: float
    record: str = ""
    absent: bool = False
    prove: bool = False
    proof_timeout: int = 60

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        if params.get("record"):
            record.record_file(params["record"])
        for option, least, most in (
            ("voboxes", 0, 1000), ("lan_peers", 1, 1000000), ("nofile_soft", 1024, 2**30), ("nofile_hard", 1024, 2**30),
        ):  # fmt: skip
            if not least <= params[option] <= most:
                raise InputError(option, params[option], f"a number from {least} to {most}")
        if params["nofile_soft"] > params["nofile_hard"]:
            raise InputError("nofile_soft", params["nofile_soft"], f"at most nofile_hard, {params['nofile_hard']}")
        if not 5 <= params.get("proof_timeout", 60) <= 3600:
            raise InputError("proof_timeout", params["proof_timeout"], "a number of seconds from 5 to 3600")
        if not 0 < params["max_clock_offset"] <= 3600:
            raise InputError("max_clock_offset", params["max_clock_offset"], "a number of seconds above 0, up to 3600")
        return cls(
            params["voboxes"],
            params["lan_peers"],
            (params["nofile_soft"], params["nofile_hard"]),
            controls.waivers(params["controls"]),
            params["max_clock_offset"],
            params.get("record") or "",
            params.get("state") == "absent",
            params.get("way_in") == "prove",
            params.get("proof_timeout", 60),
        )

    def need(self, host: Host) -> Need:
        """What this host needs."""
        return limits.need(self.voboxes, self.lan_peers, self.nofile, host.sysctls)


def texts(wish: Wish, host: Host) -> dict[str, str]:
    """The wanted files and their text; a file whose controls are all off is not among them. Pure."""
    need = wish.need(host)
    found: dict[str, str] = {}
    if wish.absent:
        return found
    lines = [
        f"{name} = {value}\n"
        for control, names in need.sysctls.items()
        if control not in wish.waived
        for name, value in names.items()
    ]
    if lines:
        found[host_state.SYSCTL_FILE] = HEADER + "".join(lines)
    soft, hard = need.nofile
    logins = ""
    for who in ("*", "root"):  # the star does not mean root (limits.conf(5))
        if "nofile" not in wish.waived:
            logins += f"{who} soft nofile {soft}\n{who} hard nofile {hard}\n"
        if "nproc" not in wish.waived:
            logins += f"{who} - nproc {need.nproc}\n"
        if "core_dumps" not in wish.waived:
            logins += f"{who} hard core 0\n"
    if logins:
        found[host_state.LIMITS_FILE] = HEADER + logins
    if host.systemd and "systemd_limits" not in wish.waived:
        found[host_state.SYSTEMD_FILE] = f"{HEADER}[Manager]\nDefaultLimitNOFILE={soft}:{hard}\n"
    # sshd takes the first value that it finds, so what the host has stricter is left to it.
    settings = {
        name: value
        for name, value in sshd_wanted(wish).items()
        if controls.strictness(name, host.sshd_without.get(name.lower(), "")) <= controls.strictness(name, value)
    }
    if host.sshd is not None and settings:
        found[host_state.SSHD_FILE] = HEADER + "".join(f"{name} {value}\n" for name, value in settings.items())
    if "kernel_modules" not in wish.waived:
        found[host_state.MODULES_FILE] = HEADER + "".join(f"install {name} /bin/true\n" for name in controls.MODULES)
    return found


def sshd_wanted(wish: Wish) -> dict[str, str]:
    """The settings of sshd that the controls ask for. Pure."""
    return {
        name: value
        for control, settings in controls.SSHD.items()
        if control not in wish.waived
        for name, value in settings.items()
    }


def plan(wish: Wish, host: Host) -> Plan:
    """Decide which files to write or to remove, and who has to read them again. Pure."""
    wanted = texts(wish, host)
    steps: list[Step] = []
    changed = [path for path in host_state.FILES if host.files.get(path) != wanted.get(path)]
    if wish.prove and host_state.SSHD_FILE in changed:
        reason = f"the host takes the change back after {wish.proof_timeout} s unless a second connection is made"
        steps.append(Step("arm_way_back", host_state.SSHD_FILE, reason))
    for path in changed:
        if path in wanted:
            there = host.files.get(path) is not None
            reason = "its text differs" if there else "it is not there"
            steps.append(Step("write", path, reason, details={"text": wanted[path]}))
        else:
            steps.append(Step("remove", path, "it is not wanted" if wish.absent else "its controls are off"))
    stale = {
        path for path, reader in READERS.items() if path in changed and (path in wanted or reader != "load_sysctls")
    }
    if host_state.SYSCTL_FILE in wanted and any(
        host.sysctls.get(name) != value
        for control, names in wish.need(host).sysctls.items()
        if control not in wish.waived
        for name, value in names.items()
    ):
        stale.add(host_state.SYSCTL_FILE)
    if host_state.SYSTEMD_FILE in wanted and not judge.services_have(host, wish.nofile):
        stale.add(host_state.SYSTEMD_FILE)
    costs = {"reload_sshd": Disruption.reload}
    for path, reader in READERS.items():
        if path in stale:
            steps.append(Step(reader, path, "what it says is not in force", costs.get(reader, Disruption.none)))
    before = {path: text for path, text in host.files.items() if text is not None}
    return Plan(tuple(steps), before, wanted)


class ControlsWork:
    """The work of the module ``host_controls``; see ``front_room.Work``."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.subject = "the host's controls"
        self._armed = False

    def observe(self) -> Host:
        return host_state.read_host()

    def plan(self, observed: Host) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Host) -> None:
        actions = {(step.action, step.target) for step in plan.steps}
        wish = self.wish
        if observed.unproved:
            raise RefusedError(
                "a change of the controls",
                "an earlier run has changed sshd, and no second connection has proved yet that one can log in; the host"
                " takes that change back when its time is up",
                f"Run again then. sh {host_state.WAY_BACK}/put_back takes it back now.",
            )
        if wish.absent:
            return
        for control in controls.CONTROLS:
            if control.reported and control.id not in wish.waived:
                good, found = judge.judge(control.id, observed, wish.need(observed), wish.max_offset)
                if not good:
                    raise RefusedError(
                        f"control {control.id}",
                        f"{found}, and {control.reason}",
                        f"It is the site's to correct; or switch the control {control.id} off with the reason.",
                    )
            overruled = "" if control.id in wish.waived else later.weaker(control.id, observed, wish.need(observed))
            if overruled:
                raise RefusedError(
                    f"control {control.id}",
                    overruled,
                    f"Take it out of that file, or switch the control {control.id} off with the reason.",
                )
        if wish.nofile[1] > observed.nr_open and not {"nofile", "systemd_limits"} <= set(wish.waived):
            raise RefusedError(
                f"nofile_hard: {wish.nofile[1]}",
                f"the kernel's fs.nr_open is {observed.nr_open}, and a higher limit is given to nobody",
                "Lower nofile_hard, or raise fs.nr_open first.",
            )
        if wish.nofile[1] > observed.hard_nofile and not observed.may_raise and "nofile" not in wish.waived:
            raise RefusedError(
                f"nofile_hard: {wish.nofile[1]}",
                f"this host may not raise its hard limit of {observed.hard_nofile} (no CAP_SYS_RESOURCE; a container?)",
                "Lower nofile_hard, or switch the control nofile off with the reason.",
            )
        if any(action == "load_sysctls" for action, _target in actions):
            self._preflight_sysctls(observed)
        if ("write", host_state.SSHD_FILE) in actions:
            self._preflight_sshd(observed, plan.after[host_state.SSHD_FILE])

    def _preflight_sysctls(self, host: Host) -> None:
        for control, names in self.wish.need(host).sysctls.items():
            if control in self.wish.waived:
                continue
            for name, value in names.items():
                now = host.sysctls.get(name)
                if now is None or (now != value and name in host.read_only):
                    raise RefusedError(
                        f"control {control}: {name} = {value}",
                        f"it is {'not there' if now is None else f'{now} and cannot be written'} here (a container?)",
                        f"Set it on the host itself, or switch the control {control} off with the reason.",
                    )

    def _preflight_sshd(self, host: Host, text: str) -> None:
        if not host.sshd_includes:
            raise RefusedError(
                f"writing {host_state.SSHD_FILE}",
                "/etc/ssh/sshd_config does not begin with Include /etc/ssh/sshd_config.d/*.conf, so it would not count",
                "Put the line there, or switch the controls sshd_... off.",
            )
        # The whole configuration as it would be, for a real connection: Match blocks may override a drop-in.
        settings = host_state.sshd_settings_of(text + host_state.sshd_text_without_ours())
        keys = set(host.keys) - ({"root"} if settings.get("permitrootlogin") == "no" else set())
        if "sshd_passwords" not in self.wish.waived and not keys:
            raise RefusedError(
                "control sshd_passwords",
                "no account can log in with a key, so without passwords nobody could log in any more",
                "Put a key into an authorized_keys first, or switch the control sshd_passwords off.",
            )
        wrong = judge.differing(settings, sshd_wanted(self.wish))
        if wrong:
            raise RefusedError(
                f"writing {host_state.SSHD_FILE}",
                "; ".join(f"{name} would still be {now}, not {value}" for name, now, value in wrong),
                "Look for a Match block in /etc/ssh that says otherwise.",
            )

    def do(self, step: Step, journal: Journal) -> None:
        if step.action == "arm_way_back":
            journal.will_do("the timer that takes the change of sshd back", "arm_way_back")
            way_back.arm(read_text(step.target, "surrogateescape"), self.wish.proof_timeout)
            self._armed = True
        elif step.action in ("write", "remove"):
            text = read_text(step.target, "surrogateescape")
            journal.will_do(f"{step.target} as it was", "file", path=step.target, text=text)
            self._put(step.target, step.details.get("text"))
        else:
            if step.action == "load_sysctls":
                host = self.observe()
                values = {name: host.sysctls[name] for name in self._names(host)}
                journal.will_do("the kernel's values", "sysctls", values=values)
                if self.wish.record:
                    known = record.read(self.wish.record)
                    first = {**values, **known.settings.get("sysctl", {})}
                    record.write(self.wish.record, replace(known, settings={**known.settings, "sysctl": first}))
            else:
                journal.will_do("what had read it", step.action)
            self._read_again(step.action)

    def _names(self, host: Host) -> list[str]:
        need = self.wish.need(host)
        return [name for control, names in need.sysctls.items() if control not in self.wish.waived for name in names]

    def _put(self, path: str, text: t.Optional[str]) -> None:
        if text is None:
            if os.path.exists(path):
                os.unlink(path)
            folder = os.path.dirname(path)
            if path == host_state.SYSTEMD_FILE and os.path.isdir(folder) and not os.listdir(folder):
                os.rmdir(folder)  # no distribution brings it
        else:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            write_atomically(path, text.encode(errors="surrogateescape"), 0o644)

    def _read_again(self, reader: str) -> None:
        if reader == "load_sysctls":
            run(f"Loading {host_state.SYSCTL_FILE}", ["sysctl", "--quiet", "--load", host_state.SYSCTL_FILE])
        elif reader == "reload_systemd":
            run("Reloading systemd", ["systemctl", "daemon-reload"])
        else:
            _reload_sshd()

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        if name == "file":
            self._put(data["path"], data["text"])
            reader = READERS.get(data["path"], "load_sysctls")
            if reader != "load_sysctls":
                self._read_again(reader)
        elif name == "arm_way_back":
            if way_back.armed():
                way_back.disarm()
        elif name == "sysctls":
            for key, value in data["values"].items():
                run(f"Putting {key} back", ["sysctl", "--quiet", f"{key}={value}"])
        # The others are taken back with their file, which was journaled before them.

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, observed: Host, plan: Plan, applied: bool) -> dict[str, t.Any]:
        need = self.wish.need(observed)
        return {
            "proof_timeout": self.wish.proof_timeout,
            "way_in": "waits for the proof" if self._armed else "",
            "sysctls": {name: value for names in need.sysctls.values() for name, value in names.items()},
            "nofile": {"soft": need.nofile[0], "hard": need.nofile[1]},
            "nproc": need.nproc,
            "waived": dict(self.wish.waived),
            "warnings": [] if self.wish.absent else judge.warnings(observed, self.wish.waived),
        }


def work_from(params: t.Mapping[str, t.Any]) -> t.Union[ControlsWork, way_back.WayBackWork]:
    """The work that the module ``host_controls`` is asked for."""
    if params["way_in"] in ("keep", "put_back"):
        return way_back.WayBackWork(params["way_in"] == "keep")
    return ControlsWork(Wish.from_params(params))


def info(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What the module ``host_audit`` returns."""
    wish = Wish.from_params(params)
    host = host_state.read_host()
    findings = judge.audit(host, wish.need(host), wish.waived, wish.max_offset)
    return {
        "controls": [finding.as_result() for finding in findings],
        "summary": {
            status: sum(finding.status == status for finding in findings) for status in ("pass", "fail", "waived")
        },
        "table": table(findings),
        "automounts": list(host.automounts),
        "warnings": judge.warnings(host, wish.waived),
    }


def table(findings: t.Sequence[judge.Finding]) -> list[str]:
    """The findings as lines for people. Pure."""
    lines = []
    for finding in findings:
        waiver = f" [waived: {finding.waiver or 'no reason given'}]" if finding.status == "waived" else ""
        lines.append(f"{finding.status:6}  {finding.id:15}  {finding.finding}{waiver}")
        if finding.status == "fail":
            lines.append(f"{'':6}  {'':15}  why it matters: {finding.reason}")
    return lines


def _reload_sshd() -> None:
    """Have sshd read its configuration again, and wait until it has; connections stay.

    The configuration was checked in the preflight.
    """
    settings = host_state.sshd_settings("/etc/ssh/sshd_config") or {}
    # It removes the file when it is told to read its configuration again, and writes it when it listens again.
    pidfile = settings.get("pidfile", "none")
    before = _stamp(pidfile)
    if not _tell_sshd() or before is None:
        return
    deadline = time.monotonic() + RELOAD_SECONDS
    while _stamp(pidfile) in (None, before):
        if time.monotonic() > deadline:
            raise WaitError(f"sshd to read its configuration again and to write {pidfile}", RELOAD_SECONDS)
        time.sleep(0.02)


def _tell_sshd() -> bool:
    """Tell sshd to read its configuration again; False if there is none that would have to."""
    if os.path.isdir("/run/systemd/system"):
        for unit in ("ssh.service", "sshd.service"):
            argv = ["systemctl", "show", "--property=ActiveState", "--value", unit]
            if run("Asking systemd for sshd", argv).strip() == "active":
                run("Reloading sshd", ["systemctl", "reload", unit])
                return True
        return False  # socket activation, or not running: the next connection reads it
    pid = (read_text("/run/sshd.pid") or "").strip()
    if pid:
        try:
            os.kill(int(pid), 1)
        except ProcessLookupError:
            return False  # the pidfile of a daemon that is gone
        except (OSError, ValueError) as exc:
            raise GridboxError(f"Reloading sshd failed: /run/sshd.pid holds {pid} ({exc}).") from exc
    return bool(pid)


def _stamp(path: str) -> t.Optional[tuple[int, int]]:
    """What tells a file from the one written in its place; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns)
