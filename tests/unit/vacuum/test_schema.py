# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The JSON Schema of pipes, which is for experiments: it says of a document what factories would."""

from __future__ import annotations

import json
import math
import re
import typing as t
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype_keys import KEYS, OF_THE_SITE
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe import parse
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
from tests.unit.vacuum.bad_values import BAD

DOCS = Path(__file__).parents[3] / "docs"
SCHEMA = json.loads((DOCS / "vacuum-pipe.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
GOOD = {
    "suffix": "prod", "machine_model": "apptainer", "target_share": 3, "root_image": "docker://example.org/pilot:el9",
    "user_data": "https://pipes.example.org/user_data",
}  # fmt: skip


def fits(*machinetypes: t.Any) -> bool:
    return bool(VALIDATOR.is_valid({"machinetypes": list(machinetypes)}))


def is_taken(machinetype: t.Any) -> bool:
    """Whether a factory does."""
    return not parse(json.dumps({"machinetypes": [machinetype]}).encode(), Section("x", 10.0)).dropped


def _is_sayable(key: str, value: t.Any) -> bool:
    """Whether a schema can be asked: of what is no JSON it says nothing, and not what the prefix leaves of a name."""
    return not (
        (isinstance(value, float) and not math.isfinite(value))
        or "\\ud800" in json.dumps(value)
        or (key == "suffix" and value == 59 * "a")
    )


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_it_has_every_key_and_no_other() -> None:
    assert set(SCHEMA["$defs"]["container"]["properties"]) == set(KEYS) - OF_THE_SITE


@pytest.mark.parametrize(("key", "value"), [pair for pair in BAD if _is_sayable(*pair)])
def test_what_factories_drop_does_not_fit(key: str, value: t.Any) -> None:
    assert fits(GOOD)
    assert not fits({**GOOD, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("root_image", "docker://pilot"),
        ("root_image", "docker://registry.example.org:5000/a/b_c:1.0@sha256:" + 64 * "a"),
        ("root_image", "/cvmfs/unpacked.cern.ch/registry.example.org/library/almalinux:9"),
        ("root_image", "https://images.example.org/pilot.sif"),
        ("root_image", "pilot.sif"),
        ("user_data", "pilot.sh"),
        ("user_data", "https://[2001:db8::1]:8443/user_data?of=lhcb&x=..%2F"),
        ("container_command", "/bin/sh -x /user_data"),
        ("container_command", ["/bin/sh", "-c", "exec /user_data > '/tmp/é'"]),
        ("cvmfs_repositories", ""),
        ("cvmfs_repositories", " lhcb.cern.ch  lhcb-condb.cern.ch "),
        ("cvmfs_repositories", ["lhcb.cern.ch"]),
        ("tmp_binds", "/scratch /var/tmp"),
        ("tmp_binds", ["/etcetera", "/.hidden", "/tmp/..a", "/var/runner", "/usr/local"]),
        ("target_share", "1.5e-3"),
        ("min_processors", "1"),
        ("max_processors", 8.0),
        ("backoff_seconds", 0),
        ("backoff_seconds", " +0 "),
        ("user_data_proxy", "TRUE"),
        ("legacy_proxy", False),
        ("accounting_fqan", "/lhcb/Role=pilot/Capability=NULL"),
        ("user_data_option_queue", "a\tb\nc"),
        ("user_data_option_queue", 5),
        ("user_data_option_queue", True),
        ("user_data_file_key", "key.pem"),
        ("unknown", {"what": "ever"}),
    ],
)
def test_what_factories_take_fits(key: str, value: t.Any) -> None:
    assert is_taken({**GOOD, key: value})
    assert fits({**GOOD, key: value})


@pytest.mark.parametrize(
    "machinetype",
    [
        {key: value for key, value in GOOD.items() if key != "root_image"},
        {key: value for key, value in GOOD.items() if key != "user_data"},
        {key: value for key, value in {**GOOD, "container_command": "/user_data -x"}.items() if key != "user_data"},
        {key: value for key, value in {**GOOD, "container_command": ["/user_data"]}.items() if key != "user_data"},
        {key: value for key, value in {**GOOD, "container_command": "/pilot"}.items() if key != "user_data"},
        {key: value for key, value in {**GOOD, "container_command": ["/pilot"]}.items() if key != "user_data"},
        {**GOOD, "machine_model": "docker", "root_image": "pilot.sif"},
        {**GOOD, "machine_model": "podman", "root_image": "/cvmfs/a.example.org"},
        {"suffix": "vm"},
        {"suffix": "vm", "machine_model": "cernvm3", "root_image": "whatever it is", "min_processors": "abc"},
        {"machine_model": "cernvm3"},
        "prod",
        None,
    ],
)
def test_what_belongs_together(machinetype: t.Any) -> None:
    assert fits(machinetype) == is_taken(machinetype)


@given(
    st.sampled_from([key for key in KEYS if key not in (*OF_THE_SITE, "machine_model")]),
    st.one_of(
        st.text(max_size=20),
        st.lists(st.text(max_size=12), max_size=3),
        st.from_regex(r"[/.a-z: ]{0,20}", fullmatch=True),
        st.from_regex(r"(docker://|https?://|/cvmfs/|/)[a-z0-9./:@-]{0,25}", fullmatch=True),
        st.integers(-5, 10**7),
        st.booleans(),
    ),
)
def test_both_say_the_same(key: str, value: t.Any) -> None:
    machinetype = {**GOOD, "max_processors": 4096, "max_wallclock_seconds": 366 * 86400, key: value}
    if key.startswith("max_"):
        machinetype[key.replace("max", "min")] = 1
    if isinstance(value, str) and re.fullmatch(r"[\s+-]*[0-9]+\s*", value):
        return  # numbers in strings: their bounds are not the schema's
    assert fits(machinetype) == is_taken(machinetype), machinetype


def test_documents() -> None:
    none: dict[str, t.Any] = {"machinetypes": []}
    for wrong in ({}, [], "x", {"machinetypes": {}}, {"machinetypes": [GOOD] * 257}, {**none, "cache_seconds": "x"}):
        assert not VALIDATOR.is_valid(wrong)
    assert VALIDATOR.is_valid({**none, "cache_seconds": 3600, "comment": "any"})


def test_the_guides_example_fits() -> None:
    found = re.search(r"```json\n(.*?)```", (DOCS / "vacuum-pipes.md").read_text(), re.DOTALL)
    assert found is not None
    VALIDATOR.validate(json.loads(found[1]))
