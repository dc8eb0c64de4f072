# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Limits, controls, and the judgement of a host."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.hardening import (
    controls,
    enforce,
    host_state,
    judge,
    later,
    limits,
    way_back,
)
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.host_state import Host
from ansible_collections.hep.gridbox.plugins.module_utils.host.text_file import read_text

PARAMS: dict[str, t.Any] = {
    "voboxes": 2, "lan_peers": 1024, "nofile_soft": 65536, "nofile_hard": 1048576, "max_clock_offset": 1.0,
    "controls": {},
}  # fmt: skip
#: A Debian 12 as installed (kernel 6.1, 4 GiB).
STOCK = {
    "fs.inotify.max_user_instances": 128, "fs.inotify.max_user_watches": 28000, "fs.file-max": 2**63 - 1,
    "kernel.pid_max": 4194304, "kernel.keys.maxkeys": 200, "kernel.keys.maxbytes": 20000,
    **{f"net.{family}.neigh.default.gc_thresh{n}": value for family in ("ipv4", "ipv6")
       for n, value in ((1, 128), (2, 512), (3, 1024))},
}  # fmt: skip


def make(**changes: t.Any) -> enforce.Wish:
    return enforce.Wish.from_params({**PARAMS, **changes})


def good_host(wish: enforce.Wish, **changes: t.Any) -> Host:
    """A host on which all of the wish is in force."""
    first = Host(sysctls=STOCK, sshd={}, sshd_includes=True, keys=("root",))
    need = wish.need(first)
    values: dict[str, t.Any] = {
        "sysctls": {name: value for names in need.sysctls.values() for name, value in names.items()},
        "files": dict.fromkeys(host_state.FILES) | enforce.texts(wish, first),
        "default_nofile": wish.nofile,
        "clock": {"service": "chrony", "stratum": 3, "offset": 0.001},
        "sshd": {name.lower(): value for name, value in enforce.sshd_wanted(wish).items()},
        "sshd_includes": True,
        "keys": ("root",),
    }
    return Host(**{**values, **changes})


@pytest.mark.parametrize(
    ("voboxes", "instances", "watches", "pids", "third", "nproc"),
    [
        (0, 256, 262144, 65536, 2048, 8192),
        (1, 512, 393216, 131072, 4096, 16384),
        (2, 768, 524288, 196608, 6144, 24576),
        (8, 2304, 1310720, 589824, 18432, 73728),
    ],
)
def test_the_formula(voboxes: int, instances: int, watches: int, pids: int, third: int, nproc: int) -> None:
    need = limits.need(voboxes, 1024, (1, 2), {})
    assert need.sysctls["inotify"] == {
        "fs.inotify.max_user_instances": instances,
        "fs.inotify.max_user_watches": watches,
    }
    assert need.sysctls["pid_max"] == {"kernel.pid_max": pids}
    assert need.sysctls["neighbours"]["net.ipv6.neigh.default.gc_thresh3"] == third
    assert need.nproc == nproc


@given(
    st.integers(0, 1000), st.integers(1, 10**6),
    st.dictionaries(st.sampled_from(limits.all_names()), st.integers(0, 2**40)),
)  # fmt: skip
def test_nothing_is_lowered_and_more_voboxes_never_need_less(voboxes: int, peers: int, current: dict[str, int]) -> None:
    need = limits.need(voboxes, peers, (1, 2), current)
    more = limits.need(voboxes + 1, peers, (1, 2), current)
    for control, names in need.sysctls.items():
        for name, value in names.items():
            assert value >= current.get(name, 0)
            assert more.sysctls[control][name] >= value
    if "kernel.pid_max" not in current:
        assert need.sysctls["pid_max"]["kernel.pid_max"] <= limits.PID_MAX_LIMIT


@given(st.integers(0, 50), st.integers(1, 5000))
def test_working_it_out_again_gives_the_same(voboxes: int, peers: int) -> None:
    first = limits.need(voboxes, peers, (1, 2), STOCK)
    after = {name: value for names in first.sysctls.values() for name, value in names.items()}
    assert limits.need(voboxes, peers, (1, 2), after) == first


def actions(wish: enforce.Wish, host: Host) -> list[str]:
    return [f"{step.action} {step.target.rsplit('/', 1)[-1]}" for step in enforce.plan(wish, host).steps]


def test_a_stock_host() -> None:
    host = Host(sysctls=STOCK, default_nofile=(1024, 524288), sshd={}, sshd_includes=True, keys=("root",))
    assert [step.action for step in enforce.plan(make(), host).steps] == [
        "write", "write", "write", "write", "write", "load_sysctls", "reload_systemd", "reload_sshd",
    ]  # fmt: skip


def test_the_way_back_is_armed_before_sshd_changes_and_only_then() -> None:
    prove = make(way_in="prove", proof_timeout=30)
    stock = Host(sysctls=STOCK, default_nofile=(1024, 524288), sshd={}, sshd_includes=True, keys=("root",))
    step = enforce.plan(prove, stock).steps[0]
    assert (step.action, step.target) == ("arm_way_back", host_state.SSHD_FILE)
    assert step.reason == "the host takes the change back after 30 s unless a second connection is made"
    assert actions(prove, good_host(prove)) == []
    lowered = {**good_host(prove).sysctls, "fs.inotify.max_user_instances": 128}
    assert actions(prove, good_host(prove, sysctls=lowered)) == ["load_sysctls 90-hep.gridbox.conf"]
    no_sshd = make(way_in="prove", controls=dict.fromkeys(controls.SSHD, False))
    assert "arm_way_back" not in {step.action for step in enforce.plan(no_sshd, stock).steps}


def test_what_is_not_wanted_any_more_goes_and_sshd_is_proved_there_too() -> None:
    gone = enforce.plan(make(state="absent", way_in="prove"), good_host(make()))
    assert [step.action for step in gone.steps] == [
        "arm_way_back", "remove", "remove", "remove", "remove", "remove", "reload_systemd", "reload_sshd",
    ]  # fmt: skip
    assert enforce.plan(make(state="absent"), Host(sysctls=STOCK)).steps == ()


@pytest.mark.parametrize(
    ("keep", "waits", "wanted"),
    [(True, True, ["keep_sshd"]), (False, True, ["put_back"]), (True, False, []), (False, False, [])],
)
def test_a_change_is_kept_or_put_back_while_it_waits(keep: bool, waits: bool, wanted: list[str]) -> None:
    work = way_back.WayBackWork(keep)
    plan = work.plan(waits)
    assert [step.action for step in plan.steps] == wanted
    if waits:
        work.preflight(plan, waits)
    else:
        with pytest.raises(GridboxError, match="the time was up, and the host has taken it back by itself"):
            work.preflight(plan, waits)


def test_a_module_that_is_loaded_is_told() -> None:
    host = good_host(make(), loaded=("tipc",))
    found = {finding.id: finding for finding in judge.audit(host, make().need(host), {}, 1.0)}
    assert found["kernel_modules"].finding.endswith("; tipc stays until the next boot")


def test_a_host_as_wanted_is_left_alone() -> None:
    assert actions(make(), good_host(make())) == []


def test_a_value_changed_by_hand_is_loaded_again() -> None:
    wish = make()
    host = good_host(wish)
    lowered = {**host.sysctls, "fs.inotify.max_user_instances": 128}
    assert actions(wish, good_host(wish, sysctls=lowered)) == ["load_sysctls 90-hep.gridbox.conf"]


def test_more_open_files_for_services_than_asked_for_are_as_wanted() -> None:
    wish = make()
    assert actions(wish, good_host(wish, default_nofile=(65536, 2**31))) == []
    lowered = good_host(wish, default_nofile=(65535, 2**31))
    assert actions(wish, lowered) == ["reload_systemd 90-hep.gridbox.conf"]


def test_a_control_that_is_off_writes_nothing_and_takes_its_own_back() -> None:
    off = dict.fromkeys(("inotify", "file_max", "pid_max", "keys", "neighbours"), "elsewhere")
    wish = make(controls=off)
    assert host_state.SYSCTL_FILE not in enforce.texts(wish, good_host(wish))
    assert actions(wish, good_host(make())) == ["remove 90-hep.gridbox.conf"]
    everything = make(controls=dict.fromkeys(controls.IDS, False))
    assert enforce.texts(everything, good_host(make())) == {}


@pytest.mark.parametrize(
    ("changes", "host", "sentence"),
    [
        ({"nofile_hard": 2097152}, {}, "the kernel's fs.nr_open is 1048576"),
        ({}, {"may_raise": False, "hard_nofile": 20000}, "may not raise its hard limit of 20000"),
        ({}, {"read_only": frozenset(STOCK)}, "inotify: fs.inotify.max_user_instances = 768: it is 128 and cannot"),
        ({}, {"sysctls": {**STOCK, "fs.inotify.max_user_watches": 10**9, "fs.inotify.max_user_instances": 10**9},
              "read_only": frozenset({"kernel.keys.maxkeys"})}, "switch the control keys off with the reason"),
        ({}, {"sysctls": {}}, "it is not there here"),
        ({}, {"keys": ()}, "no account can log in with a key"),
        ({}, {"sshd_includes": False}, "does not begin with Include"),
        ({}, {"forwarding_off": ("/x.conf",)}, "control forwarding: switched off by /x.conf, and a hardening that"),
        ({}, {"userns": "user.max_user_namespaces is 0"}, "or switch the control user_namespaces off with the reason"),
        ({}, {"unproved": True}, "an earlier run has changed sshd, and no second connection has proved yet"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_refused_before(changes: dict[str, t.Any], host: dict[str, t.Any], sentence: str) -> None:
    wish = make(**changes)
    values: dict[str, t.Any] = {"sysctls": STOCK, "sshd": {}, "sshd_includes": True, "keys": ("root",)}
    seen = Host(**{**values, **host})
    with pytest.raises(RefusedError, match=sentence):
        enforce.ControlsWork(wish).preflight(enforce.plan(wish, seen), seen)


def test_the_files_that_are_read_after_ours(tmp_path: Path) -> None:
    first, second = tmp_path / "etc", tmp_path / "usr"
    there = "etc/10-site.conf", "etc/limits.conf", "etc/95-site", "usr/90-hep.conf", "usr/95.conf", "usr/limits.conf"
    for path in there:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
    ours, folders = str(first / "90-hep.conf"), (str(first), str(second), str(tmp_path / "none"))
    found = [(str(second / "95.conf"), "usr/95.conf"), (str(first / "limits.conf"), "etc/limits.conf")]
    assert list(host_state.read_after(ours, folders)) == found
    last = tmp_path / "sysctl.conf"
    last.write_text("last")
    assert list(host_state.read_after(ours, folders, str(last))) == [*found, (str(last), "last")]
    # As distributions have it.
    (first / "99-sysctl.conf").symlink_to("../sysctl.conf")
    linked = (str(first / "99-sysctl.conf"), "last")
    assert list(host_state.read_after(ours, folders, str(last))) == [found[0], linked, found[1]]


@pytest.mark.parametrize(
    ("value", "soft", "hard"),
    [
        ("65536", 65536, 65536), ("64K:1M", 65536, 1048576), ("1024 : infinity", 1024, host_state.UNLIMITED),
    ],
)  # fmt: skip
def test_what_a_file_gives_services(value: str, soft: int, hard: int) -> None:
    assert list(later.services(f"# a\n[Manager]\nDefaultLimitNOFILE = {value}\n").values()) == [soft, hard]
    assert later.services(f"[Other]\nDefaultLimitNOFILE={value}\n[Manager]\n#DefaultLimitNOFILE={value}\n") == {}
    assert later.services("[Manager]\nDefaultLimitNOFILE=much\nDefaultLimitNOFILE=\n") == {}


def a_later(ours: str, *texts: str) -> dict[str, t.Any]:
    """A host on which the site has files that are read after ours."""
    folder = Path(ours).parent
    return {"later": {ours: [(f"{folder}/{95 + number}.conf", text) for number, text in enumerate(texts)]}}


THIRD = "net.ipv4.neigh.default.gc_thresh3"

#: Control, our file, texts of files that are read after it, and how the sentence about them ends; empty if all is well.
LATER = [
    ("systemd_limits", host_state.SYSTEMD_FILE, ["[Manager]\nDefaultLimitNOFILE=infinity\n"], ""),
    ("systemd_limits", host_state.SYSTEMD_FILE,
     ["[Manager]\nDefaultLimitNOFILE=1\n", "[Manager]\nDefaultLimitNOFILE=1M"], ""),
    ("systemd_limits", host_state.SYSTEMD_FILE, ["[Manager]\nDefaultLimitNOFILE=1024:1M\n"],
     "sets the soft DefaultLimitNOFILE to 1024, expected 65536"),
    ("neighbours", host_state.SYSCTL_FILE, [f"{THIRD} = 6144\n"], ""),
    ("neighbours", host_state.SYSCTL_FILE, [f"{THIRD} = 4096\n", f"{THIRD} = 100000\n"], ""),
    ("neighbours", host_state.SYSCTL_FILE, [f"{THIRD} = 4096\n"], f"sets {THIRD} to 4096, expected 6144"),
    # Less than the kernel has by itself, but as much as is needed.
    ("pid_max", host_state.SYSCTL_FILE, ["kernel.pid_max = 1000000\n"], ""),
    ("nofile", host_state.LIMITS_FILE, ["* - nofile 1048576\nann hard nofile 5\n"], ""),
    ("nofile", host_state.LIMITS_FILE, ["* hard nofile 65536\n"], "sets * hard nofile to 65536, expected 1048576"),
    ("nproc", host_state.LIMITS_FILE, ["root soft nproc 4096\n"], "sets root soft nproc to 4096, expected 24576"),
    ("nproc", host_state.LIMITS_FILE, ["* - nproc unlimited\n"], ""),
    ("core_dumps", host_state.LIMITS_FILE, ["* - core unlimited\n"], "sets * hard core to unlimited, expected 0"),
    ("core_dumps", host_state.LIMITS_FILE, ["* hard core 0\n"], ""),
]  # fmt: skip


@pytest.mark.parametrize(("control", "ours", "texts", "says"), LATER)
def test_what_is_read_later_and_weaker_is_refused_before(control: str, ours: str, texts: list[str], says: str) -> None:
    wish, seen = make(), good_host(make(), **a_later(ours, *texts))
    if not says:
        assert statuses(wish, seen)[control] == "pass"
        enforce.ControlsWork(wish).preflight(enforce.plan(wish, seen), seen)
        return
    found = {finding.id: finding for finding in judge.audit(seen, wish.need(seen), {}, 1.0)}[control]
    assert (found.status, found.finding.endswith(says)) == ("fail", True), found
    # The file is named before anything is touched, and also where all is in force until the next boot.
    with pytest.raises(RefusedError, match=f"control {control}: {Path(ours).parent}/95.conf, which is read after"):
        enforce.ControlsWork(wish).preflight(enforce.plan(wish, seen), seen)
    off = make(controls={control: "the site's own"})
    enforce.ControlsWork(off).preflight(enforce.plan(off, seen), seen)
    gone = make(state="absent")
    enforce.ControlsWork(gone).preflight(enforce.plan(gone, seen), seen)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"voboxes": -1}, "voboxes: got -1, expected a number from 0 to 1000"),
        ({"lan_peers": 0}, "lan_peers: got 0"),
        ({"nofile_soft": 2000000}, "nofile_soft: got 2000000, expected at most nofile_hard, 1048576"),
        ({"max_clock_offset": 0}, "max_clock_offset: got 0"),
        ({"controls": {"inotfy": False}}, "controls: got 'inotfy', expected one of nofile"),
        ({"controls": {"inotify": ""}}, r"controls\.inotify: got ''"),
        ({"controls": {"inotify": 0}}, r"controls\.inotify: got 0"),
        ({"record": "a/b"}, "record: got 'a/b'"),
        ({"proof_timeout": 4}, "proof_timeout: got 4, expected a number of seconds from 5 to 3600"),
    ],
)
def test_wrong_values(changes: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make(**changes)


def statuses(wish: enforce.Wish, host: Host) -> dict[str, str]:
    found = judge.audit(host, wish.need(host), wish.waived, wish.max_offset)
    return {finding.id: finding.status for finding in found}


def test_every_control_passes_on_a_good_host_and_each_is_reported() -> None:
    found = statuses(make(), good_host(make()))
    assert found == dict.fromkeys(controls.IDS, "pass")


@pytest.mark.parametrize(
    ("control", "host"),
    [
        ("inotify", {"sysctls": {**STOCK}}),
        ("forwarding", {"forwarding_off": ("/etc/sysctl.d/x.conf",)}),
        ("user_namespaces", {"userns": "user.max_user_namespaces is 0"}),
        ("autofs", {"autofs": "loaded/active"}),
        ("autofs", {"autofs": "masked/inactive", "automount": True}),
        ("time_sync", {"clock": {"service": ""}}),
        ("time_sync", {"clock": {"service": "chrony", "stratum": 0, "offset": 0.0}}),
        ("time_sync", {"clock": {"service": "chrony", "stratum": 3, "offset": 1.5}}),
        ("sshd_passwords", {"sshd": {"passwordauthentication": "yes"}}),
        ("systemd_limits", {"default_nofile": (1024, 524288)}),
        ("nofile", {"nr_open": 1000}),
        ("nproc", {"files": {}}),
        ("core_dumps", {"files": {}}),
        ("kernel_modules", {"files": {}}),
        ("sshd_log", {"sshd": {"loglevel": "INFO"}}),
        ("sshd_agent", {"sshd": {"allowagentforwarding": "yes"}}),
    ],
)
def test_each_control_can_fail_and_be_waived(control: str, host: dict[str, t.Any]) -> None:
    assert statuses(make(), good_host(make(), **host))[control] == "fail"
    waived = make(controls={control: "for a reason"})
    assert statuses(waived, good_host(make(), **host))[control] == "waived"


@pytest.mark.parametrize(
    ("name", "laxer", "stricter"),
    [
        ("PermitRootLogin", "yes", "prohibit-password"),
        ("PermitRootLogin", "without-password", "forced-commands-only"),
        ("PermitRootLogin", "prohibit-password", "no"),
        ("PasswordAuthentication", "yes", "no"),
        ("MaxAuthTries", "4", "3"),
        ("LoginGraceTime", "30", "20"),
        ("LoginGraceTime", "0", "120"),  # 0: no limit
        ("LogLevel", "INFO", "VERBOSE"),
        ("LogLevel", "VERBOSE", "DEBUG"),
        ("PermitRootLogin", "not known to this sshd", "yes"),
        ("MaxAuthTries", "not known to this sshd", "6"),
    ],
)
def test_which_value_of_sshd_is_stricter(name: str, laxer: str, stricter: str) -> None:
    assert controls.strictness(name, laxer) < controls.strictness(name, stricter)


STRICT = {"permitrootlogin": "no", "maxauthtries": "3", "logingracetime": "20", "loglevel": "VERBOSE"}


def test_a_stricter_sshd_passes_and_is_left_as_it_is() -> None:
    wish = make()
    strict = {**dict(good_host(wish).sshd or {}), **STRICT}
    host = good_host(wish, sshd=strict, sshd_without=STRICT)
    found = {finding.id: finding for finding in judge.audit(host, wish.need(host), {}, 1.0)}
    assert (found["sshd_root"].status, found["sshd_root"].finding) == ("pass", "PermitRootLogin is no")
    assert "MaxAuthTries is 3; LoginGraceTime is 20" in found["sshd_sessions"].finding
    text = enforce.texts(wish, host)[host_state.SSHD_FILE]
    assert not [name for name in ("PermitRootLogin", "MaxAuthTries", "LoginGraceTime") if name in text]
    assert "LogLevel VERBOSE\n" in text and "PasswordAuthentication no\n" in text
    # What an earlier version wrote is written anew, and what is written then stays.
    assert actions(wish, host) == ["write 01-hep.gridbox.conf", "reload_sshd 01-hep.gridbox.conf"]
    assert actions(wish, good_host(wish, sshd=strict, sshd_without=STRICT, files=enforce.texts(wish, host))) == []


def test_a_laxer_sshd_does_not_pass_for_the_drop_in_of_before() -> None:
    # What the host has without the drop-in decides what goes into it, not what it has with it.
    wish = make()
    lax = {**STRICT, "permitrootlogin": "yes"}
    text = enforce.texts(wish, good_host(wish, sshd=STRICT, sshd_without=lax))[host_state.SSHD_FILE]
    assert "PermitRootLogin prohibit-password\n" in text and "MaxAuthTries" not in text


def test_ubuntus_restriction_of_user_namespaces_warns() -> None:
    host = good_host(make(), userns_confined="kernel.apparmor_restrict_unprivileged_userns is 1")
    found = {finding.id: finding for finding in judge.audit(host, make().need(host), {}, 1.0)}
    assert found["user_namespaces"].status == "pass"
    assert "only programs with an AppArmor profile" in found["user_namespaces"].finding
    work = enforce.ControlsWork(make())
    work.preflight(work.plan(host), host)  # a stock host is not refused
    (warning,) = work.result(host, work.plan(host), False)["warnings"]
    assert "an Apptainer in /cvmfs has none" in warning
    off = enforce.ControlsWork(make(controls={"user_namespaces": "no pilots here"}))
    assert off.result(host, off.plan(host), False)["warnings"] == []


@pytest.mark.parametrize(("value", "forbidden", "confined"), [("0\n", True, False), ("1\n", False, True)])
def test_what_keeps_user_namespaces_from_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, forbidden: bool, confined: bool
) -> None:
    (tmp_path / "setting").write_text(value)
    monkeypatch.setattr(host_state, "sysctl_path", lambda _name: str(tmp_path / "setting"))
    assert bool(host_state._first_set({"user.max_user_namespaces": "0"})) is forbidden
    assert bool(host_state._first_set({"kernel.apparmor_restrict_unprivileged_userns": "1"})) is confined


def test_a_file_of_somebody_in_another_encoding_is_read_and_one_of_ours_is_put_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "somebody.conf"
    path.write_bytes("# für uns\nnet.ipv4.ip_forward = 0\n".encode("latin-1"))
    assert host_state.switches_forwarding_off(read_text(str(path)) or "")
    before = path.read_bytes()
    work = enforce.ControlsWork(make())
    work.undo("file", {"path": str(path), "text": read_text(str(path), "surrogateescape")})
    assert path.read_bytes() == before


def test_the_table_tells_why_a_failure_matters_and_why_a_control_is_waived() -> None:
    wish = make(controls={"time_sync": "the hypervisor does it"})
    host = good_host(wish, autofs="loaded/active")
    lines = "\n".join(enforce.table(judge.audit(host, wish.need(host), wish.waived, 1.0)))
    assert "why it matters: what it mounts on demand, containers do not see" in lines
    assert "[waived: the hypervisor does it]" in lines


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("# comment\n\nInclude /etc/ssh/sshd_config.d/*.conf\nPort 22\n", True),
        ("Port 22\nInclude /etc/ssh/sshd_config.d/*.conf\n", False),
        ("Include /etc/ssh/other.conf\n", False),
        ("", False),
    ],
)
def test_whether_sshd_reads_drop_ins(text: str, reads: bool) -> None:
    assert host_state.sshd_reads_drop_ins(text) is reads


@pytest.mark.parametrize(
    ("text", "off"),
    [
        ("net.ipv4.ip_forward=0", True),
        (" net/ipv4/ip_forward = 0", True),
        ("-net.ipv6.conf.all.forwarding = 0", True),
        ("#net.ipv4.ip_forward=0", False),
        ("net.ipv4.ip_forward=1", False),
        ("net.ipv4.ip_forward_use_pmtu = 0", False),
    ],
)
def test_what_switches_forwarding_off(text: str, off: bool) -> None:
    assert host_state.switches_forwarding_off(text) is off


def test_login_limits() -> None:
    text = "# a\n* soft nofile 10\n * hard nofile unlimited\n* - nproc 5\nroot soft nofile 99\nann soft nofile 1\n"
    assert later.logins(text) == {
        "* soft nofile": 10, "* hard nofile": host_state.UNLIMITED, "* soft nproc": 5, "* hard nproc": 5,
        "root soft nofile": 99,
    }  # fmt: skip


def test_what_a_file_sets_the_kernel_to() -> None:
    text = "# a=1\nkernel.pid_max = 5\n-net/ipv4/neigh/default/gc_thresh3=6 \nfs.*=7\nkernel.core_pattern=|/x\n"
    assert later.sysctls(text) == {"kernel.pid_max": 5, "net.ipv4.neigh.default.gc_thresh3": 6}
