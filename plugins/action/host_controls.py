# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Proves the way in after a change of sshd; documented in plugins/modules/host_controls.py.

The module arms the host's own clock, changes sshd and ends. Then it is run once more, through a new connection, to keep
the change: so what is proved is all that Ansible needs. The first connection stays open meanwhile.
"""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

#: Makes a connection that shares nothing with an open one. ssh takes the first value of an option that it is given.
ALONE = "-o ControlMaster=no -o ControlPath=none -o ServerAliveInterval=5 -o ServerAliveCountMax=3"


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = False

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[dict[str, t.Any]] = None) -> dict[str, t.Any]:
        """Run the module, and prove the way in if it changed sshd."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        how = self._task.args.get("way_in") or ("prove" if self._connection.transport == "ssh" else "skip")
        result.update(self._module(how, task_vars))
        waits = result.get("way_in") == "waits for the proof"
        if waits and not result.get("failed"):
            self._prove(result, task_vars)
        elif how == "skip" and any(step.get("action") == "reload_sshd" for step in result.get("actions", ())):
            asked = "way_in: skip" if "way_in" in self._task.args else f"the connection {self._connection.transport}"
            self._display.warning(
                f"sshd's configuration changes, and nothing proves the way in: {asked}, not a login by ssh."
            )
        return result

    def _module(self, how: str, task_vars: t.Optional[dict[str, t.Any]]) -> dict[str, t.Any]:
        arguments = {**self._task.args, "way_in": how}
        return t.cast("dict[str, t.Any]", self._execute_module(module_args=arguments, task_vars=task_vars))

    def _prove(self, result: dict[str, t.Any], task_vars: t.Optional[dict[str, t.Any]]) -> None:
        """Keep the change through a second connection; put it back through the first if that cannot be made."""
        first = self._connection.get_option("ssh_args")
        self._connection.set_option("ssh_args", f"{ALONE} {first or ''}")
        try:
            kept = self._attempt("keep", task_vars)
        finally:
            self._connection.set_option("ssh_args", first)
        if not kept:
            result["way_in"] = "proved by a second connection"
            return
        failed = self._attempt("put_back", task_vars)
        seconds = result["proof_timeout"]
        back = (
            f"Asking over the first connection for the configuration of before failed as well ({failed}); the host puts"
            f" it back by itself, within {seconds} s of the change."
            if failed
            else "The configuration of before is back; log in to make sure."
        )
        result.update(
            failed=True,
            way_in="not proved, waits for the timer" if failed else "not proved, put back",
            rolled_back=[] if failed else ["sshd's configuration"],
            msg=(
                "sshd took its new configuration, but a second connection with the same user, key and options could not"
                f" be made: {kept.rstrip('.')}. {back} Other controls stay as they are now. Correct the way in which"
                " Ansible logs in (a key instead of a password? fewer keys in the agent?), or switch the control"
                " sshd_... off that is in its way."
            ),
        )

    def _attempt(self, how: str, task_vars: t.Optional[dict[str, t.Any]]) -> str:
        """Run the module for its second purpose; what went wrong, or nothing."""
        try:
            said = self._module(how, task_vars)
        except AnsibleError as exc:  # no connection, or one that lets no module through
            return " ".join(str(exc).split())
        return str(said.get("msg", "the module said no more")) if said.get("failed") or said.get("unreachable") else ""
