# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re
import typing as t

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import version
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
            {"vacuum_pipes": {name: {"vacuum_pipe_path": "/x"} for name in ("lhcb", "lhcb-test")}},
            "a machinetype lhcb-test-a could be of this pipe or of lhcb; rename one of them",
        ),
        ({"apptainer_account": "root"}, "apptainer_account: got 'root'"),
        ({"engine": "apptainer"}, "apptainer_account: got '', expected an account of its own"),
        ({"engine": "lxc"}, "engine: got 'lxc', expected one of auto, docker, podman, apptainer"),
        (
            {"machinetypes": {"a": {"root_image": "x.sif", "user_data": "run"}}},
            "root_image: got \"'x.sif'\", expected docker:// and an image's name, for machine_model is docker",
        ),
        ({"state_folder": "relative"}, "state_folder: got 'relative'"),
        ({"cvmfs_root": "/cvmfs/"}, "cvmfs_root: got '/cvmfs/'"),
        ({"ca_path": "ca.pem"}, "ca_path: got 'ca.pem'"),
        ({"vacmon_hostport": "no port"}, "vacmon_hostport"),
        ({"no_such_option": 1}, "no_such_option: got 'an option'"),
        ({"machinetypes": {"a": {"root_image": "docker://b:1", "fizzle": 1}}}, "machinetypes.a.fizzle"),
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
