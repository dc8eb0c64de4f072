# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""user_data: what is filled in, once, and what is never told."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data import (
    Content,
    Places,
    mode_of,
    substitute,
    values,
    write,
)
from tests.unit.factory.told import configuration, machine, machinetype

STEADY = settings(deadline=None, derandomize=True, max_examples=200, database=None)

SECRET = "-----BEGIN PRIVATE KEY-----"

#: By pattern, what it stands for in a machine of the docker model (spec 3.7).
FILLED = {
    "url": "https://pipes.example.org/user_data",
    "space": "vac01.example.com",
    "machinetype": "lhcb-prod",
    "vmtype": "lhcb-prod",
    "machine_hostname": "factory1-00.example.com",
    "vm_hostname": "factory1-00.example.com",
    "manager_version": "hep.gridbox 1.0.0",
    "vmlm_version": "hep.gridbox 1.0.0",
    "manager_hostname": "factory1.example.com",
    "vmlm_hostname": "factory1.example.com",
    "machinefeatures_url": "/etc/machinefeatures",
    "jobfeatures_url": "/etc/jobfeatures",
    "joboutputs_url": "/var/spool/joboutputs",
    "manager_machinefeatures_url": "/etc/machinefeatures",
    "manager_jobfeatures_url": "/etc/jobfeatures",
    "manager_joboutputs_url": "/var/spool/joboutputs",
    "root_image_url": "",
    "uuid": "4c6c1f0e-3b0c-4d8e-9a39-6f2f5c1a7b10",
    "site": "example.com",
    "option_x509_proxy": "a proxy",
    "option_cvmfs_proxy": "http://squid1:3128|http://squid2:3128;DIRECT",
    "file_cvmfs_proxy": "",
    "option_hostkey": SECRET,
    "file_hostkey": SECRET,
    "heartbeat_machines_url": "",
    "nonsense": "",
    "of,commas,": "",
    "": "",
}


def filled_in(template: bytes) -> bytes:
    one = machinetype(
        user_data_options={"cvmfs_proxy": "http://squid1:3128|http://squid2:3128;DIRECT"},
        user_data_files={"hostkey": "hostkey.pem"},
    )
    content = Content(template, "https://pipes.example.org/user_data", {"hostkey": SECRET})
    return substitute(template, values(machine(), configuration(), one, content, "hep.gridbox 1.0.0", proxy="a proxy"))


@pytest.mark.parametrize("name", FILLED)
def test_a_pattern(name: str) -> None:
    assert filled_in(f"a ##user_data_{name}## z".encode()) == f"a {FILLED[name]} z".encode()


@pytest.mark.parametrize(
    "text",
    ["##user_data_Space##", "##user_data_space#", "#user_data_space##", "##space##", "## user_data_space ##", "#"],
)
def test_what_is_no_pattern_stays(text: str) -> None:
    assert filled_in(text.encode()) == text.encode()


def test_a_site_has_the_name_it_says() -> None:
    made = values(machine(), configuration(site="UKI-EXAMPLE"), machinetype(), Content(b""), "v")
    assert made["site"] == "UKI-EXAMPLE"


def test_an_apptainer_machine_has_its_own_places_and_its_images_url() -> None:
    where = Places("/tmp/machinefeatures", "/tmp/jobfeatures", "/tmp/joboutputs")
    one = machinetype(root_image="https://images.example.org/a.sif")
    made = values(machine(), configuration(), one, Content(b""), "v", where)
    assert made["root_image_url"] == "https://images.example.org/a.sif"
    assert (made["jobfeatures_url"], made["manager_joboutputs_url"]) == ("/tmp/jobfeatures", "/tmp/joboutputs")
    assert made["url"] == "" and "option_x509_proxy" not in made


def test_a_proxy_that_was_made_counts_more_than_an_option() -> None:
    one = machinetype(user_data_options={"x509_proxy": "old"})
    assert values(machine(), configuration(), one, Content(b""), "v", proxy="new")["option_x509_proxy"] == "new"
    assert values(machine(), configuration(), one, Content(b""), "v")["option_x509_proxy"] == "old"


def test_a_files_bytes_arrive_as_they_are() -> None:
    raw = bytes(range(256))
    content = Content(b"<##user_data_file_a##>", "", {"a": raw.decode("utf-8", "surrogateescape")})
    made = values(machine(), configuration(), machinetype(), content, "v")
    assert substitute(content.template, made) == b"<" + raw + b">"


def test_secrets_are_not_in_the_text_of_an_object() -> None:
    content = Content(SECRET.encode(), "https://pipes.example.org/user_data", {"hostkey": SECRET})
    assert "pipes.example.org" in repr(content)
    assert "PRIVATE" not in repr(content)


# ---- one pass ----------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z0-9_,]{0,8}", fullmatch=True)
#: No pattern begins or ends in it.
PLAIN = st.binary(max_size=12).map(lambda raw: raw.replace(b"#", b""))
#: As bad as can be: patterns, halves of them.
VALUE = st.lists(st.sampled_from(["##", "#", "user_data_", "##user_data_a##", "a", "\u00e9", "\udc80"])).map("".join)


@STEADY
@given(parts=st.lists(st.tuples(PLAIN, NAMES)), last=PLAIN, given_values=st.dictionaries(NAMES, VALUE, max_size=5))
def test_each_pattern_is_replaced_once_and_nothing_else(
    parts: list[tuple[bytes, str]], last: bytes, given_values: dict[str, str]
) -> None:
    template = b"".join(text + f"##user_data_{name}##".encode() for text, name in parts) + last
    expected = (
        b"".join(text + given_values.get(name, "").encode("utf-8", "surrogateescape") for text, name in parts) + last
    )
    assert substitute(template, given_values) == expected


@STEADY
@given(parts=st.lists(st.tuples(PLAIN, NAMES)), last=PLAIN, given_values=st.dictionaries(NAMES, PLAIN, max_size=5))
def test_no_pattern_is_left(parts: list[tuple[bytes, str]], last: bytes, given_values: dict[str, bytes]) -> None:
    template = b"".join(text + f"##user_data_{name}##".encode() for text, name in parts) + last
    texts = {name: raw.decode("utf-8", "surrogateescape") for name, raw in given_values.items()}
    assert not re.search(rb"##user_data_[a-z,0-9,_]*##", substitute(template, texts))


# ---- the file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_the_file_is_for_the_machine_and_its_folder_for_root(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "machine"
    folder.mkdir(0o700)
    before = os.umask(0o077)
    try:
        write(str(folder / "user_data"), b"#!/bin/sh\n", mode)
    finally:
        os.umask(before)
    assert (folder / "user_data").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((folder / "user_data").stat().st_mode) == mode
    assert os.listdir(folder) == ["user_data"]


@pytest.mark.parametrize(
    ("template", "mode"),
    [
        (b"#!/bin/sh\n", 0o755),
        (b"##user_data_uuid## ##user_data_space##", 0o755),
        # What is not filled in is in nobody's hands, and neither is what there is not.
        (b"##user_data_option_none## ##user_data_file_none##", 0o755),
        (b"##user_data_uuid## ##user_data_option_x509_proxy##", 0o700),
        (b"##user_data_file_hostkey##", 0o700),
        (b"##user_data_option_hostkey##", 0o700),
        (b"##user_data_option_password##", 0o700),
    ],
)
def test_what_the_site_has_filled_in_is_for_root_in_the_machine(template: bytes, mode: int) -> None:
    one = machinetype(user_data_options={"password": "p"}, user_data_files={"hostkey": "hostkey.pem"})
    content = Content(template, "", {"hostkey": SECRET})
    filled = values(machine(), configuration(), one, content, "v", proxy="a proxy")
    assert {mode_of(template, filled, engine) for engine in ("auto", "docker", "podman")} == {mode}
    assert mode_of(template, filled, "apptainer") == 0o755, "there it is read by the machines' account"


@pytest.mark.parametrize("mode", [0o755, 0o711, 0o710, 0o750])
def test_a_folder_that_others_may_enter_gets_none(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "machine"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(RefusedError, match=f"mode {mode:04o}.*chmod 0700") as refused:
        write(str(folder / "user_data"), SECRET.encode(), 0o700)
    assert "PRIVATE" not in str(refused.value)
    assert os.listdir(folder) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GridboxError, match=r"user_data could not be written \(No such file"):
        write(str(tmp_path / "none" / "user_data"), b"", 0o755)
