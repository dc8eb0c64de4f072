# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vacuum_pipe as Ansible runs it, on pipes that are published, in files and given; and what its guide says is true."""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import machinetype_keys, pipe
from ansible_collections.hep.gridbox.plugins.modules import vacuum_pipe
from tests.lab.modules import ModuleFailed, run_module
from tests.unit.vacuum.web_server import Web, make_ca, send, serving

GUIDE = (Path(__file__).resolve().parents[2] / "docs/vacuum-pipes.md").read_text()
MODULE = "hep.gridbox.vacuum_pipe"

#: As in spec 9.1: on Vac these were commands of root.
EVIL = {
    "machinetypes": [
        {
            "suffix": suffix, "machine_model": "docker", "target_share": 1, "root_image": "docker://busybox",
            "user_data": "https://example.org/u", **evil,
        }
        for suffix, evil in {
            "command": {"container_command": "/user_data; touch /taken; echo"},
            "image": {"root_image": "docker://busybox; touch /taken"},
            "bind": {"tmp_binds": "/a;touch${IFS}/taken"},
            "good": {},
        }.items()
    ]
}  # fmt: skip


def block(language: str, number: int = 0) -> str:
    """A block of a language in the guide."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return t.cast("str", found[number])


def read(**arguments: t.Any) -> dict[str, t.Any]:
    given = {"name": "lhcb", **arguments}
    result = run_module("vacuum_pipe", given)
    assert result["changed"] is False
    assert run_module("vacuum_pipe", given, check=True) == result
    return result


def refused(**arguments: t.Any) -> str:
    with pytest.raises(ModuleFailed) as failed:
        run_module("vacuum_pipe", {"name": "lhcb", **arguments})
    return t.cast("str", failed.value.result["msg"])


# ---- the guide ---------------------------------------------------------------------------------------------------


def test_the_guides_example_makes_what_the_guide_says(tmp_path: Path) -> None:
    authority, certificate = make_ca(tmp_path)
    [task] = yaml.safe_load(block("yaml"))
    with serving(Web(block("json").encode()), certificate) as web:
        result = read(**{**task[MODULE], "url": web.url, "ca_path": str(authority)})
    assert result["shares"] == {"lhcb-dc-prod": 6.0, "lhcb-sc-mcore": 2.0}
    assert result["unused_share"] == 2.0
    assert [one["name"] for one in result["not_for_this_factory"]] == ["lhcb-vm-prod"]
    assert result["dropped"] == result["remarks"] == [] and "warnings" not in result
    assert result["machinetypes"][0] == {
        "name": "lhcb-dc-prod", "target_share": 6.0, "machinegroup": "/lhcb/Role=production",
        "machine_model": "docker", "root_image": "registry.example.org/lhcb/pilot:2026-11",
        "user_data": "https://pipes.example.org/lhcb/user_data", "container_command": ["/user_data"],
        "cvmfs_repositories": ["lhcb.cern.ch", "lhcb-condb.cern.ch"], "tmp_binds": ["/scratch", "/var/tmp"],
        "min_processors": 1, "max_processors": 1, "min_wallclock_seconds": 9000, "max_wallclock_seconds": 86400,
        "backoff_seconds": 600, "fizzle_seconds": 600, "heartbeat_file": "heartbeat", "heartbeat_seconds": 600,
        "accounting_fqan": "/lhcb/Role=production", "disk_gb_per_processor": None,
        "user_data_options": ["cvmfs_proxy", "queue"], "user_data_files": {}, "user_data_proxy": False,
        "legacy_proxy": False,
    }  # fmt: skip


def test_the_guides_factory_changes_two_machinetypes_of_the_guides_pipe() -> None:
    factory = parse({"name": "wn001.example.org", "space": "vac01.example.org", **json.loads(block("json", 1))})
    changed = pipe.parse(block("json").encode(), factory.pipes[0].section)
    plain = pipe.parse(block("json").encode(), replace(factory.pipes[0].section, machinetypes={}))
    assert changed.machinetypes == (
        replace(plain.machinetypes[0], target_share=0.0),
        replace(plain.machinetypes[1], max_wallclock_seconds=43200, min_wallclock_seconds=43200),
    )


def test_the_guide_has_every_key_and_every_place() -> None:
    table = re.findall(r"^\| (`.*?) \|", GUIDE, re.MULTILINE)
    listed = {key for cell in table for key in re.findall(r"`([a-z_]+)`", cell)}
    of_a_machinetype = set(machinetype_keys.KEYS) - machinetype_keys.OF_THE_SITE | {"suffix"}
    assert listed == of_a_machinetype | {"machinetypes", "cache_seconds"}
    for key in machinetype_keys.OF_VIRTUAL_MACHINES | machinetype_keys.OF_THE_SITE:
        assert f"`{key}`" in GUIDE
    for place in machinetype_keys.OWNED:
        assert f"`{place}`" in GUIDE


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        (key, int(low), int(high))
        for keys, low, high in re.findall(r"^\| (`[a-z_`, ]+`) \| (\d+) to (\d+)\b", GUIDE, re.MULTILINE)
        for key in re.findall(r"[a-z_]+", keys)
    ],
)
def test_the_guides_limits_are_those(key: str, low: int, high: int) -> None:
    if key == "cache_seconds":
        assert (low, high) == (pipe.MIN_CACHE_SECONDS, pipe.MAX_CACHE_SECONDS)
        return
    for value in (low, high):
        assert machinetype_keys.check(key, value) == value
    for value in (low - 1, high + 1):
        with pytest.raises(machinetype_keys.Unfit):
            machinetype_keys.check(key, value)


# ---- the module --------------------------------------------------------------------------------------------------


def test_the_modules_examples_run(tmp_path: Path) -> None:
    path = tmp_path / "lhcb.pipe"
    path.write_text(block("json"))
    look, refuse = yaml.safe_load(vacuum_pipe.EXAMPLES)
    with serving(Web(path.read_bytes())) as web:
        result = read(**{**look[MODULE], "url": web.url})
    assert result["machinetypes"][0]["cvmfs_repositories"] == ["lhcb.cern.ch", "lhcb-condb.cern.ch"]
    assert result["remarks"] == [f"{web.url}: is not https, so whoever is on the way can change the pipe."]
    assert read(**{**refuse[MODULE], "path": str(path)})["shares"]["lhcb-dc-prod"] == 0.6


def test_what_is_returned_is_what_is_documented() -> None:
    result = read(content=json.dumps({**EVIL, "colour": 1}))
    documented = yaml.safe_load(vacuum_pipe.RETURN)
    assert set(result) - {"changed", "invocation", "warnings"} == set(documented)
    assert len(result["warnings"]) == len(result["remarks"]) == 1
    assert set(result["machinetypes"][0]) == set(documented["machinetypes"]["contains"])
    assert set(result["dropped"][0]) == set(documented["dropped"]["contains"])
    assert set(result["dropped"][0]["problems"][0]) == set(documented["dropped"]["contains"]["problems"]["contains"])
    virtual = read(content={"machinetypes": [{"suffix": "vm"}]})["not_for_this_factory"][0]
    assert set(virtual) == set(documented["not_for_this_factory"]["contains"])


def test_the_pipe_that_took_over_a_factory() -> None:
    result = read(content=json.dumps(EVIL))
    assert list(result["shares"]) == ["lhcb-good"]
    assert result["shares"]["lhcb-good"] == 0.25 and result["unused_share"] == 0.75
    assert [one["name"] for one in result["dropped"]] == ["lhcb-command", "lhcb-image", "lhcb-bind"]
    assert "container_command: got '/user_data; touch /taken; echo', expected" in result["dropped"][0]["sentence"]
    assert not Path("/taken").exists()


def test_strict_makes_it_a_failure() -> None:
    said = refused(content=json.dumps(EVIL), strict=True)
    assert said.startswith("3 of 4 machinetypes of lhcb are dropped. lhcb-command is dropped: container_command: got ")
    assert "lhcb-bind is dropped: tmp_binds" in said
    assert read(content={"machinetypes": EVIL["machinetypes"][-1:]}, strict=True)["dropped"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"content": "<html>"}, "vacuum_pipe.lhcb: got b'<html>', expected a vacuum pipe"),
        ({"content": ""}, "vacuum_pipe.lhcb: got b''"),
        ({"path": "/no/such.pipe"}, "/no/such.pipe: could not be read (No such file or directory)."),
        ({"url": "file:///etc/passwd"}, "vacuum_pipe.lhcb.vacuum_pipe_url: got 'file:///etc/passwd'"),
        ({"content": "{}", "name": "A"}, "vacuum_pipe: got 'A', expected a prefix"),
        ({"content": "{}", "timeout": 0}, "timeout: got 0"),
        ({"content": "{}", "target_share": -1}, "vacuum_pipe.lhcb.target_share: got -1"),
        ({"content": "{}", "options": {"fizzle_seconds": "abc"}}, "vacuum_pipe.lhcb.fizzle_seconds: got 'abc'"),
        ({"content": "{}", "options": {"colour": 1}}, "vacuum_pipe.lhcb.colour: got 'an option'"),
        ({"content": "{}", "path": "/a"}, "parameters are mutually exclusive"),
        ({}, "one of the following is required: url, path, content"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(arguments: dict[str, t.Any], said: str) -> None:
    assert said in refused(**arguments)


def test_an_error_page_is_a_failure() -> None:
    with serving(Web(answer=send(500, json.dumps(EVIL).encode()))) as web:
        assert refused(url=web.url).startswith(f"{web.url}: the server answers with HTTP status 500")


def test_values_of_substitutions_are_not_returned() -> None:
    result = read(content=json.dumps(EVIL), options={"user_data_option_password": "hunter2"})
    assert result["machinetypes"][0]["user_data_options"] == ["password"]
    del result["invocation"]  # there Ansible has all arguments
    assert "hunter2" not in json.dumps(result)
