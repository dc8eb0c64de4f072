# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way back: a change of sshd's configuration is taken back by the host itself, unless it is kept in time.

Before sshd's drop-in is changed, the text it has is put aside beside a script that puts it back, and a clock is started
that belongs to nobody: a timer of systemd, or a process in a session of its own. It needs no Ansible, no Python and no
connection. Whoever renames the folder first decides: the script when the time is up, or who has logged in by a new
connection and keeps the change.

What lies in /run is gone after a boot. Whatever the host boots for, nobody has proved anything by then: so for as long
as the clock runs, a unit lies on the disk that runs before sshd and puts the text back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.hardening import host_state
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step

FOLDER = host_state.WAY_BACK
UNIT = "hep.gridbox-way-back"

#: For a boot while the clock runs; with systemd only.
BOOT_FOLDER = "/var/lib/hep.gridbox/way-back"
BOOT_UNIT = f"/etc/systemd/system/{UNIT}-boot.service"
_BOOT_LINK = f"/etc/systemd/system/multi-user.target.wants/{UNIT}-boot.service"

#: From the folder that $1 names.
_PUT_BACK = f"""\
put_back() {{
    file={host_state.SSHD_FILE}
    if [ -e "$1/before" ]; then
        cp "$1/before" "$file.before" && mv "$file.before" "$file"
    else
        rm -f "$file"
    fi
}}
forget_boot() {{
    rm -f {_BOOT_LINK} {BOOT_UNIT}
    rm -rf {BOOT_FOLDER}
    rmdir {os.path.dirname(BOOT_FOLDER)} 2>/dev/null || true
    [ ! -d /run/systemd/system ] || systemctl daemon-reload  # it may have come to know the unit
}}
"""

#: Its argument, where there is no timer of systemd: seconds to wait, and whose clock it is.
SCRIPT = f"""\
# Written by hep.gridbox (host_controls): nobody proved in time that one can log in with the new configuration of sshd.
{_PUT_BACK}
folder={FOLDER}
if [ -n "$1" ]; then
    sleep "$1"
    [ "$(cat "$folder/clock" 2>/dev/null)" = "$2" ] || exit 0
fi
mv "$folder" "$folder.over" 2>/dev/null || exit 0
put_back "$folder.over"
if [ -d /run/systemd/system ]; then
    for unit in ssh.service sshd.service; do
        if systemctl --quiet is-active "$unit"; then systemctl reload "$unit" && break; fi
    done
elif [ -s /run/sshd.pid ]; then
    kill -HUP "$(cat /run/sshd.pid)"
fi
forget_boot
rm -r "$folder.over"
echo "sshd has its configuration of before back: nobody proved in time that one can log in with the new one."
"""

_BOOT_SCRIPT = f"""\
# Written by hep.gridbox (host_controls): the host has booted before anybody proved that one can log in.
{_PUT_BACK}
put_back {BOOT_FOLDER}
forget_boot
echo "sshd has its configuration of before back: the host booted before anybody proved that one can log in."
"""

_BOOT_UNIT = f"""\
# Written by hep.gridbox (host_controls); it goes when a login with the new configuration of sshd is proved.
[Unit]
Description=Take back a change of sshd that nobody has proved
Before=ssh.service sshd.service

[Service]
Type=oneshot
ExecStart=/bin/sh {BOOT_FOLDER}/put_back
"""


def armed() -> bool:
    """Whether a change of sshd waits to be kept."""
    return os.path.exists(FOLDER)


def arm(before: t.Optional[str], seconds: int) -> None:
    """Put the present text of the drop-in aside (None: there is none), and start the clock."""
    clock = os.urandom(8).hex()
    systemd = os.path.isdir("/run/systemd/system")
    if systemd:
        _arm_boot(before)
    _lay(FOLDER, before, SCRIPT, clock)
    try:
        if systemd:
            run(
                "Arming the timer that takes the change of sshd back",
                ["systemd-run", "--quiet", "--collect", f"--unit={UNIT}", f"--on-active={seconds}",
                 "--timer-property=AccuracySec=100ms", "/bin/sh", f"{FOLDER}/put_back"],
            )  # fmt: skip
        else:
            subprocess.Popen(
                ["/bin/sh", f"{FOLDER}/put_back", str(seconds), clock],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                cwd="/",
            )  # fmt: skip
    except BaseException:
        shutil.rmtree(FOLDER)
        _forget_boot()
        raise


def _lay(folder: str, before: t.Optional[str], script: str, clock: str = "") -> None:
    """Make a folder with what is to be put back and the script that does it; whole, or not at all."""
    new = f"{folder}.new"
    shutil.rmtree(new, ignore_errors=True)  # half made by a run that was killed
    os.makedirs(new, 0o700)
    if before is not None:
        write_atomically(f"{new}/before", before.encode(errors="surrogateescape"), 0o644)
    write_atomically(f"{new}/clock", clock.encode(), 0o600)
    write_atomically(f"{new}/put_back", script.encode(), 0o600)
    os.rename(new, folder)


def _arm_boot(before: t.Optional[str]) -> None:
    """What a boot puts back. The link comes last, for without it the rest does nothing; when sshd's new drop-in is on
    the disk, so is the link, for journalling file systems keep the order of such changes.
    """
    _forget_boot()  # of a run that was killed
    _lay(BOOT_FOLDER, before, _BOOT_SCRIPT)
    write_atomically(BOOT_UNIT, _BOOT_UNIT.encode(), 0o644)
    os.makedirs(os.path.dirname(_BOOT_LINK), 0o755, exist_ok=True)
    os.symlink(BOOT_UNIT, _BOOT_LINK)


def _forget_boot() -> None:
    if not os.path.lexists(BOOT_FOLDER):
        return
    for path in (_BOOT_LINK, BOOT_UNIT):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    shutil.rmtree(BOOT_FOLDER, ignore_errors=True)
    with contextlib.suppress(OSError):  # others have something there
        os.rmdir(os.path.dirname(BOOT_FOLDER))
    if os.path.isdir("/run/systemd/system"):  # it may have come to know the unit
        run("Telling systemd that the unit for the boot is gone", ["systemctl", "daemon-reload"])


def disarm() -> None:
    """Keep the change.

    :raises GridboxError: if the time was up before.
    """
    _forget_boot()  # first: kept is kept, also if the power goes now
    try:
        os.rename(FOLDER, f"{FOLDER}.kept")
    except FileNotFoundError as exc:
        raise GridboxError(
            "The second connection came too late: the host has taken the change of sshd back by then. Run again, with a"
            " longer proof_timeout if it is slow."
        ) from exc
    _stop_clock()
    shutil.rmtree(f"{FOLDER}.kept")


def put_back() -> None:
    """Take the change back now."""
    run("Putting sshd's configuration back", ["/bin/sh", f"{FOLDER}/put_back"])
    _stop_clock()


def _stop_clock() -> None:
    """The process that is a clock where there is no systemd finds nothing to do and ends by itself."""
    if os.path.isdir("/run/systemd/system"):
        # 5: the timer has just elapsed, and is not there any more.
        run("Stopping the timer", ["systemctl", "stop", f"{UNIT}.timer"], ok=(0, 5))


class WayBackWork:
    """What ``host_controls`` is asked after a change of sshd: to keep it or to put it back; see ``front_room.Work``.

    :param keep: keep it, rather than put it back.
    """

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.subject = "the host's controls"

    def observe(self) -> bool:
        return armed()

    def plan(self, observed: bool) -> Plan:
        if not observed:
            return Plan()
        if self.keep:
            return Plan((Step("keep_sshd", host_state.SSHD_FILE, "a second connection was made"),))
        reason = "no second connection could be made"
        return Plan((Step("put_back", host_state.SSHD_FILE, reason, Disruption.reload),))

    def preflight(self, plan: Plan, observed: bool) -> None:
        if not observed:
            raise GridboxError(
                "No change of sshd waits to be kept: the time was up, and the host has taken it back by itself. Run"
                " again, with a longer proof_timeout if it is slow."
            )

    def do(self, step: Step, journal: Journal) -> None:
        if step.action == "keep_sshd":
            disarm()
        else:
            put_back()

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        raise GridboxError(f"{name}: keeping and putting back have no undo")

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, observed: bool, plan: Plan, applied: bool) -> dict[str, t.Any]:
        return {}
