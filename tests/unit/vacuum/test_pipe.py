# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Vacuum pipes: what is accepted, what is dropped, and that one machinetype's mistake is its own."""

from __future__ import annotations

import contextlib
import json
import math
import time
import typing as t
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import pipe as pipes
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype_keys import KEYS
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe import Dropped, Pipe, parse
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
from tests.unit.vacuum.bad_values import BAD

IMAGE = "docker://registry.example.org/lhcb/pilot:el9"
PROD = {
    "suffix": "dc-prod", "machine_model": "docker", "target_share": 3, "root_image": IMAGE,
    "user_data": "https://pipes.example.org/user_data",
}  # fmt: skip
#: The pipe that ships with Vac (spec 3.1).
VACS_EXAMPLE = {
    "cache_seconds": 3600,
    "machinetypes": [
        {
            "suffix": "prod", "machine_model": "cernvm3", "target_share": 1.0, "backoff_seconds": 600,
            "fizzle_seconds": 600, "min_wallclock_seconds": 9000, "max_wallclock_seconds": 86400, "max_processors": 1,
            "root_image": "https://example.org/cernvm3.iso", "user_data": "https://example.org/user_data",
        }
    ],
}  # fmt: skip


def read(*machinetypes: t.Any, section: Section | None = None, **document: t.Any) -> Pipe:
    content = json.dumps({"machinetypes": machinetypes, **document})
    return parse(content.encode(), section or Section("lhcb", 10.0))


def one(**changes: t.Any) -> Machinetype:
    """The machinetype that PROD makes with these values."""
    pipe = read({**PROD, **changes})
    assert pipe.dropped == () and pipe.warnings == ()
    return pipe.machinetypes[0]


def dropped(**changes: t.Any) -> Dropped:
    """How PROD is dropped with these values, while a neighbour stays."""
    pipe = read({**PROD, **changes}, {**PROD, "suffix": "neighbour"})
    assert [machinetype.name for machinetype in pipe.machinetypes] == ["lhcb-neighbour"]
    return pipe.dropped[0]


# ---- what is read ------------------------------------------------------------------------------------------------


def test_defaults_are_vacs() -> None:
    assert one() == Machinetype(
        name="lhcb-dc-prod", target_share=10.0, machinegroup="lhcb-dc-prod", machine_model="docker",
        root_image="registry.example.org/lhcb/pilot:el9", user_data="https://pipes.example.org/user_data",
        container_command=("/user_data",), min_processors=1, max_processors=1, min_wallclock_seconds=86400,
        max_wallclock_seconds=86400, backoff_seconds=10, fizzle_seconds=600, heartbeat_seconds=0,
    )  # fmt: skip


def test_every_key() -> None:
    machinetype = one(
        machine_model="singularity", root_image="/cvmfs/cernvm-prod.cern.ch/cvm4", user_data="pilot.sh",
        container_command=["/bin/sh", "-c", "exec /user_data; : 'é'"],
        cvmfs_repositories=["lhcb.cern.ch", "lhcb-condb.cern.ch"], tmp_binds="/scratch /var/work", min_processors="2",
        max_processors=8.0, min_wallclock_seconds=60, max_wallclock_seconds=" 7200 ", backoff_seconds=0,
        fizzle_seconds="0", heartbeat_file="heartbeat", heartbeat_seconds=300,
        accounting_fqan="/lhcb/Role=production/Capability=NULL", disk_gb_per_processor=40, user_data_proxy="True",
        legacy_proxy=False, user_data_option_queue="long\nlonger", user_data_option_n=5, user_data_option_debug=True,
        user_data_file_hostcert="hostcert.pem", image_signing_dn="/CN=x", root_device="vda", scratch_device="vdb",
    )  # fmt: skip
    assert machinetype == Machinetype(
        name="lhcb-dc-prod", target_share=10.0, machinegroup="/lhcb/Role=production/Capability=NULL",
        machine_model="apptainer", root_image="/cvmfs/cernvm-prod.cern.ch/cvm4", user_data="pilot.sh",
        container_command=("/bin/sh", "-c", "exec /user_data; : 'é'"),
        cvmfs_repositories=("lhcb.cern.ch", "lhcb-condb.cern.ch"), tmp_binds=("/scratch", "/var/work"),
        min_processors=2, max_processors=8, min_wallclock_seconds=60, max_wallclock_seconds=7200, backoff_seconds=0,
        fizzle_seconds=0, heartbeat_file="heartbeat", heartbeat_seconds=300,
        accounting_fqan="/lhcb/Role=production/Capability=NULL", disk_gb_per_processor=40,
        user_data_options={"queue": "long\nlonger", "n": "5", "debug": "True"},
        user_data_files={"hostcert": "hostcert.pem"}, user_data_proxy=True, legacy_proxy=False,
    )  # fmt: skip
    assert not isinstance(machinetype.max_processors, (bool, float))
    assert not isinstance(machinetype.min_processors, (bool, float))


def test_lists_are_strings_or_arrays() -> None:
    as_text = one(
        cvmfs_repositories="a.cern.ch b.cern.ch  a.cern.ch", tmp_binds="/a\n/b", container_command="/run.sh -v"
    )
    as_array = one(
        cvmfs_repositories=["a.cern.ch", "b.cern.ch"], tmp_binds=["/a", "/b"], container_command=["/run.sh", "-v"]
    )
    assert as_text == as_array
    assert as_text.cvmfs_repositories == ("a.cern.ch", "b.cern.ch")
    assert one(cvmfs_repositories="", tmp_binds=[]).cvmfs_repositories == ()


@pytest.mark.parametrize(
    "image",
    [
        "busybox", "busybox:1.36", "localhost:5000/a/b", "registry.example.org:5000/a__b/c.d-e:T_1",
        "busybox@sha256:" + 64 * "a", "registry.example.org/a:1@sha256:" + 64 * "0",
    ],
)  # fmt: skip
def test_images(image: str) -> None:
    assert one(root_image=f"docker://{image}").root_image == image
    assert one(root_image=f"docker://{image}", machine_model="podman").root_image == image
    assert one(root_image=f"docker://{image}", machine_model="apptainer").root_image == f"docker://{image}"


def test_an_image_in_a_repository_may_have_its_tag_in_its_path() -> None:
    path = "/cvmfs/unpacked.cern.ch/registry.example.org/library/almalinux:9"
    assert one(root_image=path, machine_model="apptainer").root_image == path


def test_min_wallclock_is_max_unless_given() -> None:
    assert one(max_wallclock_seconds=600).min_wallclock_seconds == 600


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert parse(b"\xef\xbb\xbf" + json.dumps({"machinetypes": [PROD]}).encode(), Section("a")).machinetypes


# ---- what is not for this factory --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["cernvm3", "cernvm4", "vm-raw"])
def test_virtual_machines_are_reported_and_are_no_mistake(model: str) -> None:
    pipe = read({"suffix": "vm", "machine_model": model, "root_image": 5, "root_device": "vda"}, PROD)
    assert [(other.name, other.machine_model) for other in pipe.not_here] == [("lhcb-vm", model)]
    assert pipe.not_here[0].reason == f"lhcb-vm is not for this factory: {model} is a virtual machine."
    assert pipe.dropped == () and pipe.warnings == () and len(pipe.machinetypes) == 1


def test_vacs_own_example() -> None:
    pipe = parse(json.dumps(VACS_EXAMPLE).encode(), Section("exp", 1.0))
    assert (pipe.machinetypes, pipe.dropped, pipe.warnings) == ((), (), ())
    assert [other.name for other in pipe.not_here] == ["exp-prod"]


def test_no_model_is_a_virtual_machine_as_in_vac() -> None:
    pipe = read({key: value for key, value in PROD.items() if key != "machine_model"})
    assert "cernvm3, which is what no machine_model means, is a virtual machine" in pipe.not_here[0].reason


# ---- what is dropped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), BAD, ids=[f"{key}-{number}" for number, (key, _value) in enumerate(BAD)])
def test_one_bad_value_drops_its_machinetype_alone(key: str, value: t.Any) -> None:
    found = dropped(**{key: value})
    assert [problem.key for problem in found.problems] == [key]
    assert found.sentence.isprintable() and len(found.sentence) < 900
    assert found.name == ("lhcb machinetypes[0]" if key == "suffix" else "lhcb-dc-prod")


def test_the_sentence_says_what_where_and_what_is_expected() -> None:
    assert dropped(fizzle_seconds="abc").sentence == (
        "lhcb-dc-prod is dropped: fizzle_seconds: got 'abc', expected a whole number from 0 to 2592000."
    )


def test_all_mistakes_of_a_machinetype_are_told() -> None:
    found = dropped(fizzle_seconds="abc", tmp_binds="/etc", backoff_seconds=-1)
    assert [problem.key for problem in found.problems] == ["fizzle_seconds", "tmp_binds", "backoff_seconds"]


def test_very_many_mistakes_make_a_sentence_that_can_be_read() -> None:
    """It is in each report of the factory, which nobody could read any more."""
    found = dropped(**{f"user_data_file_n{number}": 0 for number in range(20_000)})
    assert len(found.sentence) < 3000
    assert found.sentence.endswith("; 19990 more problems.")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"min_processors": 2}, "min_processors"),
        ({"min_processors": 3, "max_processors": 2}, "min_processors"),
        ({"min_wallclock_seconds": 86401}, "min_wallclock_seconds"),
        ({"min_wallclock_seconds": 2, "max_wallclock_seconds": 1}, "min_wallclock_seconds"),
        ({"user_data_option_x": "a", "user_data_file_x": "a"}, "user_data_file_x"),
        ({"machine_model": "podman", "root_image": "/cvmfs/a.cern.ch/x"}, "root_image"),
        ({"machine_model": "docker", "root_image": "https://example.org/x.sif"}, "root_image"),
    ],
)
def test_what_does_not_go_together_is_dropped(changes: dict[str, t.Any], key: str) -> None:
    assert [problem.key for problem in dropped(**changes).problems] == [key]


@pytest.mark.parametrize("key", ["root_image", "user_data"])
def test_what_is_missing(key: str) -> None:
    pipe = read({name: value for name, value in PROD.items() if name != key})
    assert f"lhcb-dc-prod is dropped: {key}: nothing is given, expected" in pipe.dropped[0].sentence


def test_an_image_with_a_command_of_its_own_needs_no_user_data() -> None:
    without = {key: value for key, value in PROD.items() if key != "user_data"}
    assert read({**without, "container_command": "/opt/pilot"}).machinetypes[0].user_data == ""


@pytest.mark.parametrize("value", [5, None, "x", [], [PROD], True])
def test_what_is_no_object_is_dropped_alone(value: t.Any) -> None:
    pipe = read(value, PROD)
    assert pipe.dropped[0].sentence.startswith("lhcb machinetypes[0] is dropped: got ")
    assert pipe.machinetypes == (one(),)


def test_the_first_right_object_has_a_suffix() -> None:
    """One that is dropped takes it from nobody."""
    pipe = read(
        PROD,
        {**PROD, "max_processors": 8},
        {**PROD, "suffix": "other", "fizzle_seconds": "x"},
        {**PROD, "suffix": "other"},
        {**PROD, "suffix": "bad", "fizzle_seconds": "x"},
        {**PROD, "suffix": "bad", "max_processors": "x"},
    )
    assert [(machinetype.name, machinetype.max_processors) for machinetype in pipe.machinetypes] == [
        ("lhcb-dc-prod", 1), ("lhcb-other", 1),
    ]  # fmt: skip
    assert [(found.name, [problem.key for problem in found.problems]) for found in pipe.dropped] == [
        ("lhcb machinetypes[1]", ["suffix"]), ("lhcb machinetypes[2]", ["fizzle_seconds"]),
        ("lhcb-bad", ["fizzle_seconds"]), ("lhcb machinetypes[5]", ["max_processors"]),
    ]  # fmt: skip


def test_the_pipe_that_took_over_a_factory() -> None:
    """Spec 9.1: on Vac these were commands of root."""
    evil = [
        {**PROD, "suffix": "command", "container_command": "/user_data; touch /root/taken; echo"},
        {**PROD, "suffix": "image", "root_image": "docker://busybox; touch /root/taken"},
        {**PROD, "suffix": "option", "root_image": "docker://--privileged busybox"},
        {**PROD, "suffix": "bind", "tmp_binds": "/a$(touch${IFS}/root/taken)"},
        {**PROD, "suffix": "mount", "tmp_binds": ["/a:/b -v /:/host"]},
        {**PROD, "suffix": "x; touch /root/taken"},
    ]
    pipe = read(*evil)
    assert pipe.machinetypes == () and pipe.not_here == ()
    assert len(pipe.dropped) == len(evil)


# ---- what is ignored ---------------------------------------------------------------------------------------------


def test_an_unknown_key_is_ignored_with_one_sentence() -> None:
    pipe = read(*({**PROD, "suffix": f"a{number}", "colour": "red"} for number in range(5)), colour=1)
    assert len(pipe.machinetypes) == 5
    assert pipe.warnings == (
        "lhcb: 'colour' in the document, lhcb-a0, lhcb-a1 and 3 more is no key of a vacuum pipe, and is ignored.",
    )


@pytest.mark.parametrize(
    "key",
    ["machinegroup", "machines_dir_days", "root_public_key", "vacuum_pipe_url", "user_data_option_Big", "\x1b[2J", ""],
)
def test_a_key_that_is_not_the_pipes_to_set_has_no_effect(key: str) -> None:
    pipe = read({**PROD, key: "x"})
    assert pipe.machinetypes == (one(),)
    assert len(pipe.warnings) == 1 and pipe.warnings[0].isprintable()


def test_sentences_about_unknown_keys_end_some_day() -> None:
    pipe = read({**PROD, **{f"key{number}": 1 for number in range(500)}})
    assert len(pipe.machinetypes) == 1 and len(pipe.warnings) == 21
    assert pipe.warnings[-1] == "lhcb: 480 more keys are unknown, and are ignored."


@pytest.mark.parametrize(
    ("given", "taken", "told"),
    [
        (600, 600, False),
        ("600", 600, False),
        (1, 10, True),
        (10**7, 2592000, True),
        ("soon", 3600, True),
        (None, 3600, True),
        (True, 3600, True),
    ],
)
def test_cache_seconds(given: t.Any, taken: int, told: bool) -> None:
    pipe = read(PROD, cache_seconds=given)
    if given == 10**7:
        taken = 3600  # beyond what any number of seconds may be
    assert (pipe.cache_seconds, bool(pipe.warnings), len(pipe.machinetypes)) == (taken, told, 1)


def test_cache_seconds_of_a_month_is_a_week() -> None:
    assert read(cache_seconds=30 * 86400).cache_seconds == 7 * 86400
    assert read().cache_seconds == 3600


# ---- shares ------------------------------------------------------------------------------------------------------


def test_shares_are_parts_of_the_sections() -> None:
    pipe = read(PROD, {**PROD, "suffix": "b", "target_share": "1"}, {**PROD, "suffix": "c", "target_share": 0})
    assert [machinetype.target_share for machinetype in pipe.machinetypes] == [7.5, 2.5, 0.0]
    assert pipe.unused_share == 0.0


def test_without_a_number_the_share_is_none() -> None:
    without = {key: value for key, value in PROD.items() if key != "target_share"}
    pipe = read(without, {**PROD, "suffix": "b", "target_share": 0.5})
    assert [machinetype.target_share for machinetype in pipe.machinetypes] == [0.0, 10.0]
    assert read(without).machinetypes[0].target_share == 0.0


def test_the_share_of_what_is_not_started_is_nobodys() -> None:
    """So that shares are the same on every factory of a space, on Vac's as well."""
    virtual = {"suffix": "vm", "machine_model": "cernvm3", "target_share": 1}
    pipe = read(PROD, virtual, {**PROD, "suffix": "bad", "target_share": 4, "fizzle_seconds": "x"}, {"target_share": 2})
    assert [machinetype.target_share for machinetype in pipe.machinetypes] == [3.0]
    assert pipe.unused_share == pytest.approx(7.0)


def test_a_wrong_share_is_no_number_of_the_sum() -> None:
    pipe = read(PROD, {**PROD, "suffix": "b", "target_share": -3})
    assert [machinetype.target_share for machinetype in pipe.machinetypes] == [10.0]
    assert pipe.unused_share == 0.0


# ---- the site's section ------------------------------------------------------------------------------------------


def test_the_sections_options_precede_the_pipes() -> None:
    section = Section.checked(
        "lhcb", 10,
        {
            "max_processors": 8, "tmp_binds": "/scratch", "machinegroup": "grid", "user_data_file_x": "x.pem",
            "user_data_option_p": "q",
        },
    )  # fmt: skip
    pipe = read(
        {**PROD, "max_processors": "not looked at", "user_data_option_x": "y", "min_processors": 2}, section=section
    )
    machinetype = pipe.machinetypes[0]
    assert pipe.dropped == ()
    assert (machinetype.min_processors, machinetype.max_processors, machinetype.tmp_binds) == (2, 8, ("/scratch",))
    assert (machinetype.machinegroup, machinetype.user_data_options, machinetype.user_data_files) == (
        "grid", {"p": "q"}, {"x": "x.pem"},
    )  # fmt: skip


def test_a_section_and_a_pipe_that_do_not_go_together_cost_the_machinetype() -> None:
    section = Section.checked("lhcb", 10, {"min_processors": 4})
    pipe = read(PROD, {**PROD, "suffix": "mcore", "max_processors": 8}, section=section)
    assert [machinetype.name for machinetype in pipe.machinetypes] == ["lhcb-mcore"]
    assert "min_processors: got 4, expected no more than max_processors, which is 1" in pipe.dropped[0].sentence


def with_own(**values: t.Any) -> Section:
    """A section in which the site says something of PROD alone."""
    return Section("lhcb", 10.0, {"backoff_seconds": 60, "user_data_option_q": "all"}, {"lhcb-dc-prod": values})


NEIGHBOUR = {**PROD, "suffix": "neighbour", "target_share": 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"target_share": 0.0}, {"target_share": 0.0}),
        ({"target_share": 25.0}, {"target_share": 25.0}),
        ({"max_wallclock_seconds": 3600}, {"max_wallclock_seconds": 3600, "min_wallclock_seconds": 3600}),
        ({"backoff_seconds": 5}, {"backoff_seconds": 5}),
        ({"machinegroup": "own"}, {"machinegroup": "own"}),
        (
            {"user_data_file_q": "q", "user_data_option_p": "own"},
            {"user_data_options": {"p": "own"}, "user_data_files": {"q": "q"}},
        ),
    ],
)
def test_what_the_site_says_of_one_machinetype_precedes_option_by_option(
    values: dict[str, t.Any], expected: dict[str, t.Any]
) -> None:
    prod = {**PROD, "user_data_option_p": "pipe"}
    plain = read(prod, NEIGHBOUR, section=with_own())
    pipe = read(prod, NEIGHBOUR, section=with_own(**values))
    assert pipe.machinetypes[0] == replace(plain.machinetypes[0], **expected)
    assert pipe.machinetypes[1] == plain.machinetypes[1], "the neighbour has what it had, its share as well"
    assert (pipe.dropped, pipe.unused_share) == ((), 0.0)


def test_a_machinetype_that_the_pipe_spoils_is_set_right_by_the_site() -> None:
    spoilt = {**PROD, "max_processors": "many", "target_share": "much"}
    assert read(spoilt, section=with_own()).dropped[0].name == "lhcb-dc-prod"
    pipe = read(spoilt, section=with_own(max_processors=2, target_share=3.0))
    assert [(one.max_processors, one.target_share) for one in pipe.machinetypes] == [(2, 3.0)]


def test_a_virtual_machine_becomes_a_container_by_what_the_site_says_of_it() -> None:
    virtual = {**PROD, "machine_model": "cernvm3", "root_image": "https://pipes.example.org/cernvm3.iso"}
    pipe = read(virtual, section=with_own(machine_model="docker", root_image=IMAGE))
    assert [(one.machine_model, one.root_image) for one in pipe.machinetypes] == [("docker", IMAGE[len("docker://") :])]


def test_what_the_site_says_and_what_the_pipe_says_may_not_go_together() -> None:
    pipe = read(PROD, NEIGHBOUR, section=with_own(min_processors=4, target_share=2.0))
    assert [one.name for one in pipe.machinetypes] == ["lhcb-neighbour"]
    assert pipe.dropped[0].sentence == (
        "lhcb-dc-prod is dropped: min_processors: got 4, expected no more than max_processors, which is 1"
        " (machinetypes.lhcb-dc-prod sets min_processors, target_share)."
    )
    assert pipe.unused_share == 2.0


@pytest.mark.parametrize(
    ("machinetype", "section", "has_share"),
    [
        ({**PROD, "max_processors": 0}, None, True),
        ({**PROD, "max_processors": 0, "target_share": 0}, None, False),
        ({**PROD, "max_processors": 0}, with_own(target_share=0.0), False),
        ({**PROD, "target_share": "much"}, None, True),
        ({**PROD, "target_share": "much"}, Section("lhcb"), False),
        ({**PROD, "max_processors": 0}, Section("lhcb"), False),
        (5, None, True),
        (5, Section("lhcb"), False),
    ],
)
def test_whether_what_is_dropped_has_a_share(machinetype: t.Any, section: Section | None, has_share: bool) -> None:
    assert [one.has_share for one in read(machinetype, section=section).dropped] == [has_share]


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, value in BAD if key != "suffix"])
def test_a_mistake_in_the_section_is_the_operators(key: str, value: t.Any) -> None:
    share = value if key == "target_share" else 1
    options = {} if key == "target_share" else {key: value}
    with pytest.raises(InputError) as failed:
        Section.checked("lhcb", share, options)
    assert str(failed.value).startswith(f"vacuum_pipe.lhcb.{key}: got ")


@pytest.mark.parametrize("key", ["colour", "suffix", "target_share", "vacuum_pipe_url", "root_device", 5])
def test_an_unknown_option_of_the_section(key: t.Any) -> None:
    with pytest.raises(InputError, match=f"vacuum_pipe.lhcb.{key}: .*one of accounting_fqan, .*, user_data_proxy"):
        Section.checked("lhcb", 1, {key: 1})


def test_the_option_that_was_probably_meant_is_named_first() -> None:
    with pytest.raises(InputError, match="max_procesors: got 'an option', expected max_processors, which comes clos"):
        Section.checked("lhcb", 1, {"max_procesors": 1})


@pytest.mark.parametrize(
    "options", [{"min_processors": 2, "max_processors": 1}, {"machine_model": "docker", "root_image": "/cvmfs/a.ch/x"}]
)
def test_options_of_the_section_that_do_not_go_together(options: dict[str, t.Any]) -> None:
    with pytest.raises(InputError, match=r"vacuum_pipe\.lhcb\."):
        Section.checked("lhcb", 1, options)


def test_the_value_of_a_substitution_is_not_told() -> None:
    with pytest.raises(InputError) as failed:
        Section.checked("lhcb", 1, {"user_data_option_password": "hunter2\x00"})
    assert "hunter2" not in str(failed.value)


@pytest.mark.parametrize("prefix", ["", "-a", "A", "a_b", "a/b", "..", 32 * "a", "a\n"])
def test_a_prefix_that_cannot_be_one(prefix: str) -> None:
    with pytest.raises(InputError, match=r"^vacuum_pipe: got"):
        Section.checked(prefix)


# ---- the document ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"", b"<html><body>404</body></html>", b"null", b"[]", b"5", b'"a"', b"{}", b'{"error": "not found"}',
        b'{"machinetypes": {}}', b'{"machinetypes": [', b'{"machinetypes": []} x', b'\xff\xfe{"machinetypes": []}',
        b'{"machinetypes": ["\xff"]}', b"\x00", b'{"machinetypes": [' + 100000 * b"[",
        b'{"machinetypes": ' + 40 * b"[" + 40 * b"]" + b"}",
        b'{"machinetypes": [' + b",".join([b"{}"] * 257) + b"]}", b'{"machinetypes": []}' + b" " * 1048576,
    ],
    ids=range(18),
)  # fmt: skip
def test_what_is_no_pipe_is_refused_as_a_whole(content: bytes) -> None:
    with pytest.raises(InputError) as failed:
        parse(content, Section("lhcb", 1.0))
    said = str(failed.value)
    assert said.startswith("vacuum_pipe.lhcb: got ") and said.endswith("Nothing of the document is used.")
    assert said.isprintable() and len(said) < 500


def test_an_empty_pipe_is_a_pipe() -> None:
    assert read().machinetypes == ()


def test_deep_values_in_a_machinetype_are_its_own() -> None:
    deep: t.Any = "x"
    for _level in range(pipes.MAX_DEPTH - 3):
        deep = [deep]
    pipe = read({**PROD, "suffix": "deep", "tmp_binds": deep}, PROD)
    assert len(pipe.machinetypes) == len(pipe.dropped) == 1


def test_a_number_of_many_digits_costs_one_machinetype() -> None:
    """Python refuses to read it since 3.11, which would cost the pipe."""
    text = json.dumps({"machinetypes": [{**PROD, "suffix": "big", "fizzle_seconds": 1}, PROD]})
    pipe = parse(text.replace('"fizzle_seconds": 1', '"fizzle_seconds": ' + 5000 * "9").encode(), Section("a", 1.0))
    assert len(pipe.machinetypes) == len(pipe.dropped) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("root_image", "docker://" + 300000 * "a_"), ("cvmfs_repositories", 300000 * "a-"),
        ("tmp_binds", "/" + 600000 * "a"), ("user_data", "https://" + 300000 * "a."),
        ("accounting_fqan", 300000 * "/a"), ("container_command", 300000 * "a "), ("container_command", 300000 * "/a"),
        ("cvmfs_repositories", 150000 * ["a"]), ("target_share", 600000 * "1"), ("suffix", 600000 * "a"),
        ("user_data_option_x", 150000 * "\x01"),
    ],
)  # fmt: skip
def test_a_long_value_takes_no_time(key: str, value: t.Any) -> None:
    began = time.process_time()
    dropped(**{key: value})
    assert time.process_time() - began < 1


# ---- whatever the bytes are --------------------------------------------------------------------------------------

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
NASTY = st.sampled_from([value for _key, value in BAD]) | ANY_JSON
KEY = st.sampled_from([*KEYS, "suffix", "user_data_option_x", "user_data_file_x", "root_device", "colour"]) | st.text(
    max_size=20
)
OBJECT = st.dictionaries(KEY, NASTY, max_size=8).map(lambda values: {**PROD, **values}) | ANY_JSON


def held(pipe: Pipe) -> None:
    """What is true of every pipe that was read."""
    for machinetype in pipe.machinetypes:
        assert machinetype.name.startswith("lhcb-")
        assert 0 <= machinetype.target_share <= 10.0 * (1 + 1e-9)
        assert 1 <= machinetype.min_processors <= machinetype.max_processors
        assert 1 <= machinetype.min_wallclock_seconds <= machinetype.max_wallclock_seconds
        assert not machinetype.root_image.startswith("-") and machinetype.root_image.isprintable()
        assert all(path.startswith("/") and ".." not in path.split("/") for path in machinetype.tmp_binds)
        assert all("/" not in name for name in (*machinetype.cvmfs_repositories, *machinetype.user_data_files.values()))
        assert all("\x00" not in word for word in machinetype.container_command)
    names = [machinetype.name for machinetype in pipe.machinetypes]
    assert len(set(names)) == len(names)
    assert all(found.sentence.isprintable() for found in pipe.dropped)
    assert all(warning.isprintable() for warning in pipe.warnings)


@given(st.binary(max_size=200))
def test_no_bytes_hurt(content: bytes) -> None:
    with contextlib.suppress(InputError):  # the one error that is documented
        held(parse(content, Section("lhcb", 10.0)))


@settings(max_examples=150, deadline=None)
@given(st.lists(OBJECT, max_size=5), ANY_JSON)
def test_no_document_hurts_and_every_object_is_accounted_for(objects: list[t.Any], cache_seconds: t.Any) -> None:
    pipe = read(*objects, cache_seconds=cache_seconds)
    held(pipe)
    assert len(pipe.machinetypes) + len(pipe.not_here) + len(pipe.dropped) == len(objects)
    shares = math.fsum([*(machinetype.target_share for machinetype in pipe.machinetypes), pipe.unused_share])
    assert shares == pytest.approx(10.0) or shares == 0.0


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(KEY.filter(lambda key: key not in ("suffix", "target_share")), NASTY, max_size=8), st.integers(0, 2)
)
def test_a_machinetypes_values_never_touch_the_others(values: dict[str, t.Any], place: int) -> None:
    others = [PROD, {**PROD, "suffix": "b", "target_share": 2}]
    strange = {**PROD, **values, "suffix": "strange"}
    pipe = read(*others[:place], strange, *others[place:])
    plain = read(*others[:place], {**PROD, "suffix": "strange"}, *others[place:])
    assert [machinetype for machinetype in pipe.machinetypes if machinetype.name != "lhcb-strange"] == [
        machinetype for machinetype in plain.machinetypes if machinetype.name != "lhcb-strange"
    ]
