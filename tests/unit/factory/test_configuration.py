# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import re
import typing as t

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import space, version
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import load, parse
from tests.gate.tools import ROOT

SMALL: dict[str, t.Any] = {"name": "f1.example.org", "space": "vac01.example.org", "total_processors": 2}


def refused(**options: t.Any) -> str:
    with pytest.raises(InputError) as found:
        parse({**SMALL, **options})
    return str(found.value)


def test_the_guides_example_is_a_factory() -> None:
    text = (ROOT / "docs/factory.md").read_text()
    found = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert found is not None
    made = parse(json.loads(found[1]))
    assert made.settings.slots[0] == "wn001-00.example.org"
    assert len(made.settings.slots) == 8
    assert [one.name for one in made.machinetypes] == ["local"]
    assert made.machinetypes[0].user_data_options == {"cvmfs_proxy": "http://squid.example.org:3128"}
    assert made.pipes[0].section.options == {"user_data_option_cvmfs_proxy": "http://squid.example.org:3128"}


def test_signatures_are_demanded_of_all_factories_or_of_none() -> None:
    listed = {"factories": ["f1.example.org", "f2.example.org"]}
    options = {**SMALL, **listed, "key_file": "/etc/hep.gridbox/space.key"}
    for wanted in (False, True):
        made = parse({**options, "signed_only": wanted})
        assert [one.signed for one in made.others] == [wanted]
        assert [one.signed for one in space.of(made).factories] == [wanted, wanted]


def test_who_cannot_sign_is_told_so_and_not_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = parse({**SMALL, "key_file": "/etc/hep.gridbox/space.key", "signed_only": True})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RefusedError, match=r"only root can read the key that they are signed with\. Ask as root\."):
        space.ask(space.of(made), ["factory_query"], space.of(made).factories, 1)


def test_more_than_a_hundred_slots_have_names_of_one_length() -> None:
    slots = parse({**SMALL, "total_processors": 128}).settings.slots
    assert (slots[0], slots[127]) == ("f1-0000.example.org", "f1-0127.example.org")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"total_processors": 0}, "total_processors: got 0, expected a whole number from 1"),
        ({"total_processors": True}, "total_processors: got True"),
        ({"images_days": 1.5}, "images_days: got 1.5, expected a whole number from 0 to 3660"),
        ({"images_days": -1}, "images_days: got -1"),
        ({"space": "no space"}, "space: got 'no space'"),
        ({"space": None}, "space: got ''"),
        ({"name": "f1"}, "name: got 'f1'"),
        ({"networks": ["10.0.0.0/33"]}, "networks: got ['10.0.0.0/33']"),
        ({"networks": 5}, "networks: got 5"),
        ({"factories": ["short"]}, "factories: got ['short']"),
        ({"factories": [{"factory": "f2.example.org", "prot": 1}]}, "factories: got"),
        ({"work_space": "lvm"}, "volume_group: got ''"),
        (
            {"volume_group": "grid"},
            "volume_group: got 'grid', expected nothing, for work_space is file. Set work_space: lvm, or leave",
        ),
        (
            {"work_space": "folder", "volume_group": "grid", "thin_pool": "pool"},
            "nothing, for work_space is folder. Set work_space: lvm, or leave volume_group out. Wrong as well: thin_",
        ),
        ({"thin_pool": "pool"}, "thin_pool: got 'pool', expected nothing, for work_space is file. Set work_space: "),
        (
            {"signed_only": True},
            "signed_only: got True, expected false, for there is no key_file to sign and to check with. Name the",
        ),
        (
            {"vacuum_pipes": {name: {"vacuum_pipe_path": "/x"} for name in ("lhcb", "lhcb-test")}},
            "a machinetype lhcb-test-a could be of this pipe or of lhcb; rename one of them",
        ),
        ({"apptainer_account": "root"}, "apptainer_account: got 'root'"),
        ({"engine": "apptainer"}, "apptainer_account: got '', expected an account of its own"),
        (
            {"engine": "apptainer", "apptainer_account": "vacsing", "network": "podman"},
            "network: got 'podman', expected bridge, a network of the machine's own, or host: with",
        ),
        ({"engine": "lxc"}, "engine: got 'lxc', expected one of auto, docker, podman, apptainer"),
        (
            {"machinetypes": {"a": {"root_image": "x.sif", "user_data": "run"}}},
            "root_image: got \"'x.sif'\", expected docker:// and an image's name, for machine_model is docker",
        ),
        ({"state_folder": "relative"}, "state_folder: got 'relative'"),
        ({"cvmfs_root": "/cvmfs/"}, "cvmfs_root: got '/cvmfs/'"),
        (
            {"metrics_file": "/var/lib/gridbox"},
            "metrics_file: got '/var/lib/gridbox', expected an absolute path",
        ),
        ({"metrics_file": "gridbox.prom"}, "metrics_file: got 'gridbox.prom'"),
        ({"ca_path": "ca.pem"}, "ca_path: got 'ca.pem'"),
        ({"vacmon_hostport": "no port"}, "vacmon_hostport"),
        ({"no_such_option": 1}, "no_such_option: got 'an option', expected one of apptainer_account, benchmark, "),
        (
            {"total_procesors": 1},
            "total_procesors: got 'an option', expected total_processors, which comes closest, or",
        ),
        (
            {"machinetypes": {"a": {"root_image": "docker://b:1", "fizzle": 1}}},
            "machinetypes.a.fizzle: got 'an option', expected fizzle_seconds, which comes closest, or another one of",
        ),
        (
            {"machinetypes": {"a": {"targetshare": 1}}},
            "machinetypes.a.targetshare: got 'an option', expected target_share, which comes closest",
        ),
        (
            {"vacuum_pipes": {"a": {"vacuum_pipe_uri": "https://pipes.example.org/a"}}},
            "vacuum_pipes.a.vacuum_pipe_uri: got 'an option', expected vacuum_pipe_url, which comes closest",
        ),
        (
            {"machinetypes": {"lhcb-a": {"target_share": 0}}},
            "made from. It has the prefix of no vacuum pipe (there is none), so it has to be complete.",
        ),
        (
            {"machinetypes": {"lhcbx": {"target_share": 0}}, "vacuum_pipes": {"lhcb": {"vacuum_pipe_path": "/x"}}},
            "of no vacuum pipe (lhcb), so it has to be complete",
        ),
        (
            {
                "machinetypes": {"lhcb-a": {"min_processors": 2, "max_processors": 1}},
                "vacuum_pipes": {"lhcb": {"vacuum_pipe_path": "/x"}},
            },
            "machinetypes.lhcb-a.min_processors: got 2, expected no more than max_processors, which is 1",
        ),
        (
            {
                "machinetypes": {"lhcb-a": {"max_processors": "many"}},
                "vacuum_pipes": {"lhcb": {"vacuum_pipe_path": "/x"}},
            },
            "machinetypes.lhcb-a.max_processors: got 'many'",
        ),
        ({"machinetypes": {"A": {}}}, "machinetypes: got 'A'"),
        ({"machinetypes": []}, "machinetypes: got []"),
        ({"vacuum_pipes": {"a": {"target_share": 1}}}, "vacuum_pipes.a.vacuum_pipe_url"),
        ({"vacuum_pipes": {"a": {"vacuum_pipe_url": "ftp://x"}}}, "vacuum_pipes.a.vacuum_pipe_url"),
    ],
)
def test_a_wrong_option_is_a_sentence(options: dict[str, t.Any], told: str) -> None:
    assert told in refused(**options)


def test_all_that_is_wrong_is_named() -> None:
    text = refused(total_processors=0, mb_per_processor=-1, zone="x")
    assert text.startswith("total_processors: got 0")
    assert text.endswith("Wrong as well: mb_per_processor, zone.")


def test_a_secret_is_not_told() -> None:
    assert "hidden" not in refused(user_data_options={"password": ["hidden"]})
    assert "hidden" not in refused(user_data_options={"BAD NAME": "hidden"})


def test_a_machinetypes_own_substitution_precedes_the_common_one() -> None:
    kind = {"root_image": "docker://b:1", "user_data": "run", "user_data_file_proxy": "proxy"}
    made = parse({**SMALL, "user_data_options": {"proxy": "common", "b": "2"}, "machinetypes": {"a": kind}})
    assert made.machinetypes[0].user_data_options == {"b": "2"}
    assert made.machinetypes[0].user_data_files == {"proxy": "proxy"}


def test_one_option_of_a_pipes_machinetype_is_enough() -> None:
    made = parse(
        {
            **SMALL,
            "user_data_options": {"proxy": "common"},
            "machinetypes": {
                "lhcb-dc-prod": {"target_share": 0},
                "b": {"root_image": "docker://b:1", "user_data": "run"},
            },
            "vacuum_pipes": {"lhcb": {"vacuum_pipe_path": "/x"}, "alice": {"vacuum_pipe_path": "/y"}},
        }
    )
    assert [one.name for one in made.machinetypes] == ["b"]
    [said] = made.overrides
    assert (said.name, said.prefix, said.values) == ("lhcb-dc-prod", "lhcb", {"target_share": 0.0})
    assert [one.section.machinetypes for one in made.pipes] == [{}, {"lhcb-dc-prod": {"target_share": 0.0}}]


def test_a_pipe_that_is_wrong_makes_no_machinetype_of_its_prefix_wrong() -> None:
    text = refused(machinetypes={"lhcb-a": {"target_share": 0}}, vacuum_pipes={"lhcb": {"vacuum_pipe_url": "ftp://x"}})
    assert text.startswith("vacuum_pipes.lhcb.vacuum_pipe_url") and "Wrong as well" not in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"user_data_files": {"key": "../key.pem"}},
            "user_data_files: got 'a value that is not shown', expected a file's",
        ),
        (
            {"user_data_options": {"key": "\x03"}},
            "user_data_options: got 'a value that is not shown', expected text of",
        ),
    ],
)
def test_what_all_machinetypes_have_is_checked_once(options: dict[str, t.Any], told: str) -> None:
    assert told in refused(**options) and "Wrong as well" not in refused(**options)


def test_files_that_are_none(tmp_path: t.Any) -> None:
    with pytest.raises(GridboxError, match="cannot be read"):
        load(str(tmp_path / "missing"))
    bad = tmp_path / "bad"
    bad.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load(str(bad))
    bad.write_text("[]")
    with pytest.raises(InputError, match="a JSON object"):
        load(str(bad))


def test_the_version_is_the_collections() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert f"{galaxy['namespace']}.{galaxy['name']} {galaxy['version']}" == version.PRODUCT


def test_prefixes_that_only_look_alike_are_fine() -> None:
    pipes = {name: {"vacuum_pipe_path": "/x"} for name in ("lhcb", "lhcb2", "alice-a", "alice-b")}
    assert len(parse({**SMALL, "vacuum_pipes": pipes}).pipes) == 4
