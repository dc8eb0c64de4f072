# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The front room: the one place where the library meets Ansible.

A module hands over its arguments and a *work*: the concern's observe, plan, preflight, do and undo. This file runs them
in that order, stops before ``do`` in check mode, and turns the outcome into a module result.
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.lock import Lock
from ansible_collections.hep.gridbox.plugins.module_utils.plan import DISRUPTIONS, Disruption, Plan, Step

#: Matches the documentation fragment ``hep.gridbox.plan``.
PLAN_ARGUMENTS: dict[str, t.Any] = {
    "max_disruption": {"type": "str", "choices": DISRUPTIONS, "default": "container"},
    "options_only": {"type": "bool", "default": False},
}

#: Matches the documentation fragment ``hep.gridbox.engine``.
ENGINE_ARGUMENTS: dict[str, t.Any] = {
    "engine": {"type": "str", "choices": ["auto", "docker", "podman"], "default": "auto"},
    "engine_url": {"type": "str"},
    "engine_timeout": {"type": "int", "default": 60},
}


class Work(t.Protocol):
    """What a concern offers the front room.

    :ivar subject: what is changed, in words that name it and nothing else on the host; for it there is one run at a
        time.
    """

    subject: str

    def observe(self) -> t.Any:
        """Read the host. Anything but "not there" that goes wrong is an error, never "absent"."""

    def plan(self, observed: t.Any) -> Plan:
        """Decide. Pure: no host, no clock."""

    def preflight(self, plan: Plan, observed: t.Any) -> None:
        """Ask the host all that could make the plan fail, and raise. Runs in check mode too; changes nothing."""

    def do(self, step: Step, journal: Journal) -> None:
        """Carry out one step, writing its undo to the journal first."""

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        """Take back one journal entry; idempotent."""

    def before_guard_undo(self) -> None:
        """Called in the guard process: drop connections shared with the process that died."""

    def result(self, observed: t.Any, plan: Plan, applied: bool) -> dict[str, t.Any]:
        """The documented return values. ``observed`` is the state after an applied plan; before it otherwise, when the
        values have to be predicted from the plan. ``warnings`` among them are shown as Ansible shows warnings. May
        wait, and changes nothing: other runs on the subject are let through by then."""


class _Terminated(BaseException):
    """SIGTERM, SIGINT or SIGHUP arrived; unwinds through the undo."""


def run(module: AnsibleModule, make_work: t.Callable[[dict[str, t.Any]], Work]) -> t.NoReturn:
    """Run one module to its end.

    :param make_work: builds the work from the module's parameters; raises :class:`InputError` for bad values, and only
        after all of them :class:`RefusedError` for a host that is not ready, such as one without an engine.
    """
    if module.params["options_only"]:
        _check_options(module, make_work)
    with contextlib.ExitStack() as held:
        try:
            work = make_work(module.params)
            lock = held.enter_context(Lock(work.subject))
            observed = work.observe()
            plan = work.plan(observed)
            refuse_above(plan, Disruption[module.params["max_disruption"]])
            work.preflight(plan, observed)
        except GridboxError as exc:
            module.fail_json(msg=str(exc), changed=False, actions=[])
        _carry_out(module, work, plan, observed, lock)


def forget_announced(module: AnsibleModule, option: str) -> None:
    """Take an option for not given, but in check mode: it names what earlier tasks of the run take away, and there they
    have only announced it. In the real run it has gone, or is in the way."""
    if not module.check_mode:
        module.params[option] = module.argument_spec[option]["default"]


def _check_options(module: AnsibleModule, make_work: t.Callable[[dict[str, t.Any]], Work]) -> t.NoReturn:
    """Refuse options that cannot be right, on a host that may not be ready yet."""
    try:
        make_work(module.params)
    except RefusedError:
        pass  # it is the host that is not ready; the options have been checked
    except GridboxError as exc:
        module.fail_json(msg=str(exc), changed=False, actions=[])
    module.exit_json(changed=False, actions=[], disruption=Disruption.none.name)


def _carry_out(module: AnsibleModule, work: Work, plan: Plan, observed: t.Any, lock: Lock) -> t.NoReturn:
    """Apply the plan unless this is check mode, and end the module with the result."""
    result: dict[str, t.Any] = {
        "changed": bool(plan.steps),
        "actions": [step.as_result() for step in plan.steps],
        "disruption": plan.disruption.name,
        "diff": {"before": dict(plan.before), "after": dict(plan.after)},
    }
    applied = bool(plan.steps) and not module.check_mode
    left_over: t.Sequence[Step] = ()
    if applied:
        result["actions"] = _apply(module, work, plan, lock)
    try:
        if applied:
            observed = work.observe()
            left_over = work.plan(observed).steps
        # The result may be waited for, and another run may be just what it waits for.
        lock.release()
        told = work.result(observed, plan, applied)
    except GridboxError as exc:
        if applied:
            module.fail_json(msg=f"All steps were carried out, but then: {exc}", **result)
        module.fail_json(msg=str(exc), changed=False, actions=[])
    if left_over:
        still = "; ".join(f"{step.action} {step.target}: {step.reason}" for step in left_over)
        module.fail_json(msg=f"All steps were carried out, but the host still differs: {still}", **result)
    result.update(told)
    _exit(module, result)


def run_info(module: AnsibleModule, collect: t.Callable[[dict[str, t.Any]], dict[str, t.Any]]) -> t.NoReturn:
    """Run an info module: ``collect`` reads and returns the documented values, and changes nothing. ``warnings`` among
    them are shown as Ansible shows warnings."""
    try:
        result = collect(module.params)
    except GridboxError as exc:
        module.fail_json(msg=str(exc))
    _exit(module, {"changed": False, **result})


def _exit(module: AnsibleModule, result: dict[str, t.Any]) -> t.NoReturn:
    """End the module well; ``warnings`` among the values are shown as Ansible shows warnings."""
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    module.exit_json(**result)


def refuse_above(plan: Plan, limit: Disruption) -> None:
    """Refuse a plan that costs the service more than the operator allows.

    :raises RefusedError: naming each step above the limit.
    """
    above = [step for step in plan.steps if step.disruption > limit]
    if above:
        raise RefusedError(
            f"max_disruption: {limit.name}",
            "the change needs "
            + "; ".join(f"{step.action} {step.target} ({step.disruption.name}: {step.reason})" for step in above),
            f"Nothing was touched. Allow it with max_disruption: {plan.disruption.name}, or change what you ask for.",
        )


def _apply(module: AnsibleModule, work: Work, plan: Plan, lock: Lock) -> list[dict[str, str]]:
    """Carry the plan out; on any failure undo, tell what was done and undone, and end the module."""
    done: list[dict[str, str]] = []
    step = plan.steps[0]
    with Journal(work.undo, work.before_guard_undo, lock.release) as journal, _signals_unwind() as signals:
        try:
            for step in plan.steps:
                work.do(step, journal)
                done.append(step.as_result())
        except (Exception, _Terminated) as exc:  # noqa: BLE001  whatever went wrong, what was done is undone and told
            signals.ignore()
            done += [other.as_result() for other in journal.beside]
            rollback = journal.roll_back()
            failure: dict[str, t.Any] = {
                "changed": True,
                "actions": done,
                "failed_action": step.as_result(),
                "rolled_back": rollback.undone,
                "not_rolled_back": rollback.failed,
                "disruption": plan.disruption.name,
            }
            said = str(exc)
            if not isinstance(exc, (GridboxError, _Terminated)):
                # Not foreseen, so a fault of ours. From ansible-core 2.19 on the operator's setting decides whether
                # the traceback is shown, so the message names the kind.
                failure["exception"] = traceback.format_exc()
                said = f"unforeseen {type(exc).__name__}: {exc}."
            message = f"{step.action} {step.target}: {said}"
            if rollback.failed:
                message += " Not put back: " + "; ".join(rollback.failed) + "."
            elif rollback.undone:
                message += " Put back: " + "; ".join(rollback.undone) + "."
            module.fail_json(msg=message, **failure)
    return done


class _signals_unwind:
    """Within the block, the first request to end becomes an exception, so that the undo runs.

    Those after it are ignored: they would end the undo half-way, and who presses Ctrl-C twice, or a service manager
    that sends SIGTERM and SIGHUP, wants no more than the first has begun.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __enter__(self) -> _signals_unwind:
        self._process, self._ends = os.getpid(), False
        self._old = {number: signal.signal(number, self._raise) for number in self.SIGNALS}
        return self

    def ignore(self) -> None:
        """The undo has begun: nothing but SIGKILL ends it early, and after that the guard goes on with it."""
        self._ends = True

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _raise(self, number: int, _frame: t.Any) -> None:
        if os.getpid() != self._process:
            # A child that a library has forked (pyroute2 does, and ends it by SIGTERM): the undo is not its own.
            os._exit(128 + number)
        if self._ends:  # not SIG_IGN, which whatever the undo starts would inherit
            return
        self._ends = True
        raise _Terminated(f"The module was told to end ({signal.Signals(number).name}).")
