# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way back: a change of sshd's configuration is taken back by the host itself, unless it is kept in time.

Before sshd's drop-in is changed, the text it has is put aside beside a script that puts it back, and a clock is started
that belongs to nobody: a timer of systemd, or a process in a session of its own. It needs no Ansible, no Python and no
connection. Whoever renames the folder first decides: the script when the time is up, or who has logged in by a new
connection and keeps the change.

All of it lies in /run and is gone after a boot, when every login is a proof that one can log in.
"""

from __future__ import annotations

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

#: Its argument, where there is no timer of systemd: seconds to wait, and whose clock it is.
SCRIPT = f"""\
# Written by hep.gridbox (host_controls): nobody proved in time that one can log in with the new configuration of sshd.
folder={FOLDER}
file={host_state.SSHD_FILE}
if [ -n "$1" ]; then
    sleep "$1"
    [ "$(cat "$folder/clock" 2>/dev/null)" = "$2" ] || exit 0
fi
mv "$folder" "$folder.over" 2>/dev/null || exit 0
if [ -e "$folder.over/before" ]; then
    cp "$folder.over/before" "$file.before" && mv "$file.before" "$file"
else
    rm -f "$file"
fi
if [ -d /run/systemd/system ]; then
    for unit in ssh.service sshd.service; do
        if systemctl --quiet is-active "$unit"; then systemctl reload "$unit" && break; fi
    done
elif [ -s /run/sshd.pid ]; then
    kill -HUP "$(cat /run/sshd.pid)"
fi
rm -r "$folder.over"
echo "sshd has its configuration of before back: nobody proved in time that one can log in with the new one."
"""


def armed() -> bool:
    """Whether a change of sshd waits to be kept."""
    return os.path.exists(FOLDER)


def arm(before: t.Optional[str], seconds: int) -> None:
    """Put the present text of the drop-in aside (None: there is none), and start the clock."""
    clock = os.urandom(8).hex()
    new = f"{FOLDER}.new"
    shutil.rmtree(new, ignore_errors=True)  # half made by a run that was killed
    os.mkdir(new, 0o700)
    if before is not None:
        write_atomically(f"{new}/before", before.encode(errors="surrogateescape"), 0o644)
    write_atomically(f"{new}/clock", clock.encode(), 0o600)
    write_atomically(f"{new}/put_back", SCRIPT.encode(), 0o600)
    os.rename(new, FOLDER)
    try:
        if os.path.isdir("/run/systemd/system"):
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
        raise


def disarm() -> None:
    """Keep the change.

    :raises GridboxError: if the time was up before.
    """
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
