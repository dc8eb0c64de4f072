# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Puts a program of the collection on a host; documented in plugins/modules/host_program.py."""

from __future__ import annotations

import hashlib
import tempfile
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.hep.gridbox.plugins.plugin_utils.zipapp import build

#: The programs, and the module of the library that each is.
PROGRAMS = {"gridbox": "factory.program", "gridbox-reconcile": "reconcile.program"}


class ActionModule(ActionBase):
    """The action: builds here, and leaves it to ``ansible.builtin.copy`` to compare and to write."""

    TRANSFERS_FILES = True

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[dict[str, t.Any]] = None) -> dict[str, t.Any]:
        """Build the program and copy it."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec(
            {
                "name": {"type": "str", "required": True, "choices": sorted(PROGRAMS)},
                "dest": {"type": "path"},
                "python": {"type": "path", "default": "/usr/bin/python3"},
            }
        )
        dest = arguments["dest"] or f"/usr/local/sbin/{arguments['name']}"
        for option, path in (("dest", dest), ("python", arguments["python"])):
            if not path.startswith("/") or "\n" in path:
                raise AnsibleActionFail(f"{option}: got {path!r}, expected an absolute path.")
        program = build(PROGRAMS[arguments["name"]], arguments["python"])
        sha256 = hashlib.sha256(program).hexdigest()
        with tempfile.NamedTemporaryFile(prefix="hep.gridbox-") as built:
            built.write(program)
            built.flush()
            task = self._task.copy()
            task.args = {"src": built.name, "dest": dest, "mode": "0755", "owner": "root", "group": "root"}
            copy = self._shared_loader_obj.action_loader.get(
                "ansible.legacy.copy",
                task=task,
                connection=self._connection,
                play_context=self._play_context,
                loader=self._loader,
                templar=self._templar,
                shared_loader_obj=self._shared_loader_obj,
            )
            copied = copy.run(task_vars=task_vars)
        result.update({key: copied[key] for key in ("failed", "msg", "exception") if key in copied})
        result.update(changed=bool(copied.get("changed")), dest=dest, sha256=sha256)
        # A program's bytes are nothing to read; which program, and whether it is another, is.
        result["diff"] = {"before_header": dest, "after_header": dest}
        if result["changed"]:
            result["diff"].update(before="another program, or none\n", after=f"{arguments['name']} {sha256}\n")
        return result
