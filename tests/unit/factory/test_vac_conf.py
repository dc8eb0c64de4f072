# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From Vac's configuration to a factory's: files as sites have them, and every option of spec 2.2 to 2.4."""

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.vac_conf import Converted, convert

HOST = "factory1.example.com"

#: What is said of every configuration.
ALWAYS = (
    (
        "Vac uses the volume group vac_volume_group if the host has it. To use one here, set work_space: lvm and"
        " volume_group."
    ),
    (
        "Vac answers whoever knows the space's name. Here the other factories of the list may ask, and who is in"
        " networks; open: true is as Vac has it."
    ),
)

#: A site with three experiments' pipes, in files by space and subspace.
SITE = (
    (
        "/etc/vac.d/10-settings.conf",
        """\
# Managed by Puppet; do not edit
[settings]
vac_space = VAC01.example.com
factories = factory1.example.com factory2.example.com
  factory3.example.com
gocdb_sitename = UKI-EXAMPLE
total_processors: 24
processors_per_superslot = 8
mb_per_processor = 3072
hs06_per_processor = 11.25      ; measured in May
overload_per_processor = 1.5
volume_group = vac_volume_group
disk_gb_per_processor = 40
vacmon_hostport = vacmon.example.com:8884 Monitor2.example.com:8884
udp_timeout_seconds = 5.0
version_logger = 0
description = The factories of Example
user_data_option_cvmfs_proxy = http://squid1.example.com:3128;http://squid2.example.com:3128
""",
    ),
    (
        "/etc/vac.d/50-lhcb.conf",
        """\
[vacuum_pipe lhcb]
vacuum_pipe_url = https://lhcb-pipes.example.org/lhcb.pipe
target_share = 5.5
user_data_file_hostcert = hostcert.pem
user_data_file_hostkey = /etc/grid-security/hostkey.pem
user_data_proxy = True
""",
    ),
    (
        "/etc/vac.d/50-atlas.conf",
        """\
[vacuum_pipe atlas]
vacuum_pipe_url: https://atlas-pipes.example.org/atlas.pipe
target_share: 4
accounting_fqan: /atlas/Role=production
machines_dir_days: 7
""",
    ),
    ("/etc/vac.conf", "[settings]\ntotal_processors = 16\n\n[vacuum_pipe atlas]\ntarget_share = 2\n"),
    ("/var/run/vac.conf", "[settings]\nshutdown_time = 1800000000\n"),
)

#: A site that defines its machinetypes itself, as in 2015 and in 2018.
OWN = """\
[settings]
vac_space = vac02.example.com
factories = . factory2 factory3.other.org
cpu_total = 8
mb_per_cpu = 2500
hs06_per_cpu = 9.5
overload_per_cpu = 1.2
scratch_gb = 30
vcpu_per_machine = 4
domain_type = xen
total_machines = 8
delete_old_files = true
root_public_key = /root/.ssh/id_rsa.pub
fix_networking = false
forward_dev = eth1
gocdb_cert_file = /etc/grid-security/hostcert.pem
gocdb_key_file = /etc/grid-security/hostkey.pem
singularity_user = vacsing
machinefeatures_option_rack = R12
draining = Yes
surprise = 1

[vmtype gds-vm]
rootpublickey = /root/.ssh/id_rsa.pub
target_share = 1
root_image = cernvm3.iso
user_data = user_data

[machinetype exp-dc-prod]
machine_model = docker
target_share = 0.5
root_image = docker://registry.example.org/exp/pilot:2018
user_data = https://pipes.example.org/exp/user_data
container_command = /init /user_data
cvmfs_repositories = lhcb.cern.ch
    grid.cern.ch
tmp_binds = /scratch /var/tmp
min_processors = 1
max_processors = 4
min_wallclock_seconds = 9000
max_wallclock_seconds = 172800
backoff_seconds = 600
fizzle_seconds = 300
heartbeat_file = heartbeat
heartbeat_seconds = 900
accounting_fqan = /exp/Role=production
machinegroup = exp
disk_gb_per_processor = 20
legacy_proxy = no
image_signing_dn = /DC=org/CN=image
machineoutputs_days = 10
user_data_option_queue = prod

[machinetype exp-sc]
machine_model = singularity
root_image = /cvmfs/cernvm-prod.cern.ch/cvm4
user_data = sc_user_data
machines_dir_days = 0
"""


def check(found: Converted) -> configuration.Configuration:
    """The factory that it makes."""
    return configuration.parse({"name": HOST, **found.configuration})


def test_a_site_with_pipes() -> None:
    found = convert(SITE, HOST)
    assert found.configuration == {
        "name": HOST,
        "space": "vac01.example.com",
        "factories": ["factory2.example.com", "factory3.example.com"],
        "site": "UKI-EXAMPLE",
        "total_processors": 16,
        "processors_per_superslot": 8,
        "mb_per_processor": 3072,
        "hs06_per_processor": 11.25,
        "overload_per_processor": 1.5,
        "work_space": "lvm",
        "volume_group": "vac_volume_group",
        "disk_gb_per_processor": 40,
        "vacmon_hostport": "vacmon.example.com:8884 monitor2.example.com:8884",
        "shutdown_time": 1800000000,
        "machines_dir_days": 7,
        "user_data_options": {"cvmfs_proxy": "http://squid1.example.com:3128;http://squid2.example.com:3128"},
        "vacuum_pipes": {
            "lhcb": {
                "vacuum_pipe_url": "https://lhcb-pipes.example.org/lhcb.pipe",
                "target_share": 5.5,
                "user_data_file_hostcert": "hostcert.pem",
                "user_data_file_hostkey": "hostkey.pem",
                "user_data_proxy": True,
            },
            "atlas": {
                "vacuum_pipe_url": "https://atlas-pipes.example.org/atlas.pipe",
                "target_share": 2,
                "accounting_fqan": "/atlas/Role=production",
            },
        },
    }
    assert found.notes == (
        (
            "[settings] udp_timeout_seconds is not carried over: polls have a budget of their own and do not keep a"
            " factory waiting."
        ),
        "[settings] version_logger is not carried over: nobody is told which version runs.",
        "[settings] description is not carried over: nothing reads it.",
        (
            "[settings] shutdown_time: look whether it is still meant. Vac forgets one in /var/run/vac.conf when the"
            " host is booted; here it stays until it is taken out."
        ),
        (
            "machines_dir_days is one for all machines here, and now 7. Vac had 7 for [vacuum_pipe atlas], 3 for"
            " [vacuum_pipe lhcb]; 0 is for ever."
        ),
        ALWAYS[1],
    )
    assert found.files == {
        "lhcb/files/hostcert.pem": "/var/lib/vac/machinetypes/lhcb/files/hostcert.pem",
        "lhcb/files/hostkey.pem": "/etc/grid-security/hostkey.pem",
        "lhcb/x509cert.pem": "/var/lib/vac/machinetypes/lhcb/x509cert.pem",
        "lhcb/x509key.pem": "/var/lib/vac/machinetypes/lhcb/x509key.pem",
    }
    factory = check(found)
    assert {pipe.section.prefix: pipe.section.target_share for pipe in factory.pipes} == {"lhcb": 5.5, "atlas": 2.0}
    assert [monitor.host for monitor in factory.vacmon] == ["vacmon.example.com", "monitor2.example.com"]


def test_a_site_with_machinetypes_of_its_own_and_old_names() -> None:
    found = convert([("/etc/vac.conf", OWN)], HOST)
    assert found.files == {"exp-sc/files/sc_user_data": "/var/lib/vac/machinetypes/exp-sc/files/sc_user_data"}
    factory = check(found)
    assert (factory.space, factory.apptainer_account, factory.machines_days) == ("vac02.example.com", "vacsing", 3660)
    assert [peer.factory for peer in factory.factories] == ["factory2.example.com", "factory3.other.org"]
    assert factory.machinefeatures_options == {"rack": "R12"}
    settings = factory.settings
    assert (settings.total_processors, settings.mb_per_processor, settings.hs06_per_processor) == (8, 2500, 9.5)
    assert (settings.overload_per_processor, settings.processors_per_superslot, settings.draining) == (1.2, 4, True)
    assert settings.disk_bytes_per_processor == 30 * 10**9
    prod, sc = factory.machinetypes
    assert (prod.name, prod.target_share, prod.root_image) == (
        "exp-dc-prod", 0.5, "registry.example.org/exp/pilot:2018"
    )  # fmt: skip
    assert (prod.container_command, prod.cvmfs_repositories, prod.tmp_binds) == (
        ("/init", "/user_data"), ("lhcb.cern.ch", "grid.cern.ch"), ("/scratch", "/var/tmp")
    )  # fmt: skip
    assert (prod.max_processors, prod.min_wallclock_seconds, prod.max_wallclock_seconds) == (4, 9000, 172800)
    assert (prod.backoff_seconds, prod.fizzle_seconds, prod.heartbeat_file, prod.heartbeat_seconds) == (
        600, 300, "heartbeat", 900
    )  # fmt: skip
    assert (prod.accounting_fqan, prod.machinegroup, prod.disk_gb_per_processor) == ("/exp/Role=production", "exp", 20)
    assert (prod.legacy_proxy, prod.user_data_options) == (False, {"queue": "prod"})
    assert (sc.machine_model, sc.root_image, sc.user_data) == (
        "apptainer", "/cvmfs/cernvm-prod.cern.ch/cvm4", "sc_user_data"
    )  # fmt: skip
    assert found.notes == (
        "[settings] cpu_total is now called total_processors.",
        "[settings] hs06_per_cpu is now called hs06_per_processor.",
        "[settings] mb_per_cpu is now called mb_per_processor.",
        "[settings] overload_per_cpu is now called overload_per_processor.",
        "[settings] scratch_gb is now called disk_gb_per_processor.",
        "[settings] vcpu_per_machine is now called processors_per_superslot.",
        "[settings] domain_type is not carried over: Vac ignores it as well.",
        "[settings] total_machines is not carried over: Vac ignores it as well.",
        "[settings] delete_old_files is not carried over: Vac ignores it as well.",
        "[settings] root_public_key is not carried over: it is for virtual machines.",
        "[settings] fix_networking is not carried over: it is for virtual machines.",
        "[settings] forward_dev is not carried over: it is for virtual machines.",
        "[settings] gocdb_cert_file is not carried over: capacity is not published to the GOCDB.",
        "[settings] gocdb_key_file is not carried over: capacity is not published to the GOCDB.",
        "[settings] surprise is not carried over: neither Vac nor this factory knows it.",
        (
            "[machinetype gds-vm] as a whole is not carried over: cernvm3, which is what no machine_model means, is a"
            " virtual machine, and this factory makes containers."
        ),
        "[machinetype exp-dc-prod] machineoutputs_days is now called machines_dir_days.",
        "[machinetype exp-dc-prod] image_signing_dn is not carried over: it is for virtual machines.",
        (
            "Apptainer's machinetypes (exp-sc) are not started, for a factory has one engine: with engine apptainer"
            " it makes their machines, and no others."
        ),
        (
            "machines_dir_days is one for all machines here, and now 3660. Vac had 10 for [machinetype exp-dc-prod],"
            " 0 for [machinetype exp-sc]; 0 is for ever."
        ),
        ALWAYS[0],
        (
            "With any cvmfs_repositories a machine of Vac's sees all of /cvmfs. Here it sees the repositories that are"
            " named: add those that its jobs use beside."
        ),
        ALWAYS[1],
    )


def convert_text(text: str, host: str = "") -> Converted:
    found = convert([("vac.conf", text)], host)
    if "space" in found.configuration:
        check(found)
    return found


def settings(text: str, host: str = "") -> tuple[dict[str, t.Any], list[str]]:
    """What becomes of lines in [settings], and what is said of them."""
    found = convert_text(f"[settings]\nvac_space = vac01.example.com\n{text}", host)
    return (
        {key: value for key, value in found.configuration.items() if key not in ("space", "name")},
        [note for note in found.notes if note not in ALWAYS],
    )


def machinetype(text: str) -> tuple[t.Optional[dict[str, t.Any]], list[str]]:
    """What becomes of a container's machinetype with these lines, and what is said of it."""
    plain = "machine_model = docker\nroot_image = docker://a:1\nuser_data = https://a.org/u\n"
    found = convert_text(f"[settings]\nvac_space = vac01.example.com\n[machinetype t]\n{plain}{text}")
    made = found.configuration.get("machinetypes", {}).get("t")
    return made, [note for note in found.notes if note not in ALWAYS]


# ---- the syntax --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("user_data_option_x = a;b ;c", "a;b ;c"),  # only the first semicolon is looked at, as by Python 2
        ("user_data_option_x = a ; b", "a"),
        ("user_data_option_x = ;a", ";a"),
        ("USER_DATA_OPTION_X:a=b", "a=b"),
        ("user_data_option_x = a\n\n# comment\n; comment\nREM comment\n  # no comment", "a\n# no comment"),
        ("user_data_option_x = a # b", "a # b"),
        ('user_data_option_x = ""', ""),
        ("user_data_option_x =", ""),
        ("user_data_option_x = a\r\n\tb\r\n", "a\nb"),
        ("user_data_option_x = a\nuser_data_option_x = %(b)s", "%(b)s"),
    ],
)
def test_files_are_read_as_by_python_2(text: str, value: str) -> None:
    assert settings(text) == ({"user_data_options": {"x": value}}, [])


def test_sections_of_one_name_are_one_and_later_values_win() -> None:
    files = [
        ("a", "[settings]\nvac_space = a.org\nmb_per_processor = 1000\n[machinetype x]\ntarget_share = 1\n"),
        ("b", "[settings] whatever\nmb_per_processor = 3000\n[MachineType  X]\nmachine_model = cernvm4\n"),
    ]
    found = convert(files)
    assert found.configuration == {"space": "a.org", "mb_per_processor": 3000}
    assert "[machinetype x] as a whole is not carried over: cernvm4 is a virtual machine" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vac_space = a.org", r"^f, line 1: is not a section such as \[settings\], so this is no file of Vac's\.$"),
        ("[settings]\nvac_space = a.org\ns3cret\n", r"^f, line 3: is not an option, so this is no file of Vac's\.$"),
        ("[settings]\n  vac_space = a.org\n", r"^f, line 2: is not an option"),
        ("\n<html>", r"^f, line 2: is not a section"),
    ],
)
def test_what_is_no_configuration_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(GridboxError, match=sentence):
        convert([("f", text)])


def test_other_sections_are_named() -> None:
    notes = convert_text("[settings]\nvac_space = a.org\n[DEFAULT]\na=1\n[targetshares]\nb=1\n[machinetype]\n").notes
    assert notes[:3] == (
        "[DEFAULT] as a whole is not carried over: write its options into each section that they are meant for.",
        "[targetshares] as a whole is not carried over: neither Vac nor this factory reads such a section.",
        "[machinetype] as a whole is not carried over: neither Vac nor this factory reads such a section.",
    )


def test_without_a_space_that_is_the_first_note() -> None:
    found = convert_text("[machinetype x]\n")
    assert found.configuration == {}
    assert found.notes[0] == "There is no vac_space in [settings]: space has to be added."
    assert convert([]).notes[0] == found.notes[0]


# ---- [settings] --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("draining = yes", {"draining": True}),
        ("draining = true", {}),  # to Vac only yes is
        ("mb_per_cpu = 1000\nmb_per_processor = 2000", {"mb_per_processor": 1000}),
        ("cpu_per_machine = 2\nprocessors_per_superslot = 8", {"processors_per_superslot": 8}),
        ("volume_group = vg", {"work_space": "lvm", "volume_group": "vg"}),
        ("user_data_file_x = a.pem", {"user_data_files": {"x": "a.pem"}}),
        ("user_data_file_x = /etc/a.pem", {"user_data_files": {"x": "a.pem"}}),
        ("user_data_file_x = a\nuser_data_option_x = b", {"user_data_options": {"x": "b"}}),
        ("machinefeatures_option_a = 1\nmachinefeatures_option_b =", {"machinefeatures_options": {"a": "1", "b": ""}}),
        ("shutdown_time = 1800000000", {"shutdown_time": 1800000000}),
        ("gocdb_sitename = UKI", {"site": "UKI"}),
        ("hs06_per_processor = 10", {"hs06_per_processor": 10}),
    ],
)
def test_a_setting_is_carried_over(text: str, made: dict[str, t.Any]) -> None:
    assert settings(text)[0] == made


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("mb_per_processor = lots", "mb_per_processor: got 'lots', expected a whole number from 4 to 16777216."),
        ("total_processors = 1.5", "total_processors: got 1.5, expected a whole number from 1 to 4096."),
        ("shutdown_time = tomorrow", "shutdown_time: got 'tomorrow', expected a whole number from 0 to 1099511627776."),
        ("singularity_user = root", "apptainer_account: got 'root', expected an account of its own: all its processes"),
        ("vacmon_hostport = monitor", "vacmon_hostport: got 'monitor', expected HOST:PORT in lower case"),
        ("gocdb_sitename = A B", "site: got 'A B', expected the site's name in the GOCDB."),
        ("volume_group = a/b", "volume_group: got 'a/b', expected a volume group's name."),
        ("machinefeatures_option_x = a\n  b", "machinefeatures_options: got {'x': 'a\\nb'}, expected an object: names"),
    ],
)
def test_a_setting_that_is_refused_is_named_with_why(text: str, note: str) -> None:
    made, notes = settings(text)
    assert made == {}
    assert notes == [notes[0]]
    assert notes[0].startswith(f"[settings] {text.partition(' ')[0]} is not carried over: {note.rstrip('.')}")


def test_a_space_that_is_none_is_named() -> None:
    found = convert_text("[settings]\nvac_space = a b\n")
    assert "space" not in found.configuration
    assert found.notes[0].startswith("[settings] vac_space is not carried over: space: got 'a b', expected the space's")


@pytest.mark.parametrize(
    ("names", "host", "made", "notes"),
    [
        (". f2", "f1.a.org", ["f2.a.org"], []),
        ("F1.a.org f2.a.org f2.a.org", "f1.a.org", ["f2.a.org"], []),
        (".", "", None, []),
        (".", "f1.a.org", None, []),
        (
            ". f2 f3.a.org", "", ["f3.a.org"],
            ["factories: f2 is not carried over: Vac takes it to be in the host's domain; write it with its domain."],
        ),
        ("a_b.org", "f1.a.org", None,
         ["factories: a_b.org is not carried over: it is no host's name with its domain."]),
    ],
)  # fmt: skip
def test_factories(names: str, host: str, made: t.Optional[list[str]], notes: list[str]) -> None:
    found, told = settings(f"factories = {names}", host)
    assert found.get("factories") == made
    assert told == [f"[settings] {note}" for note in notes]


def test_no_note_shows_a_value_that_may_be_a_password() -> None:
    text = (
        "[settings]\nvac_space = a.org\nuser_data_option_a = s3cret\x01\nuser_data_option_BAD-NAME = s3cret\n"
        "user_data_file_b = .s3cret\n"
        "[machinetype t]\nmachine_model = docker\nroot_image = docker://a\nuser_data = u\n"
        "user_data_option_c = s3cret\x02\n"
        "[vacuum_pipe p]\nvacuum_pipe_url = https://a.org/p\nuser_data_option_d = s3cret\x03\n"
    )
    found = convert_text(text)
    assert found.configuration == {"space": "a.org"}
    assert "s3cret" not in " ".join(found.notes)
    for name in ("user_data_option_a", "user_data_option_bad-name", "user_data_file_b", "user_data_option_c"):
        assert [note for note in found.notes if f"] {name}" in note], name


# ---- [machinetype X] and [vacuum_pipe X] -------------------------------------------------------------------------


def test_values_that_both_vac_and_this_factory_have_by_default_are_not_written() -> None:
    assert machinetype("") == (
        {"machine_model": "docker", "root_image": "docker://a:1", "user_data": "https://a.org/u"}, []
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("fizzle_seconds = abc", "fizzle_seconds: got 'abc', expected a whole number from 0 to 2592000."),
        (
            "container_command = /user_data; touch /x",
            "container_command: got '/user_data; touch /x', expected a program",
        ),
        ("tmp_binds = /etc", "tmp_binds: got '/etc', expected at most 16 absolute paths"),
        ("root_image = /images/sc.img", "root_image: got '/images/sc.img', expected docker:// and an image's name"),
        ("machine_model = lxc", "machine_model: got 'lxc', expected one of docker, podman, apptainer or singularity"),
        ("user_data_file_x = a b", "user_data_file_x: got a value that is not shown, expected a file's name"),
        (
            "min_processors = 4",
            "as a whole is not carried over: machinetypes.t.min_processors: got '4', expected no more",
        ),
    ],
)
def test_a_machinetype_with_a_value_that_is_refused_is_left_out_as_a_whole(text: str, note: str) -> None:
    made, notes = machinetype(text)
    assert made is None
    assert notes[0].startswith(f"[machinetype t] {note.partition(', expected one of')[0]}")
    assert notes[-1].startswith("[machinetype t] as a whole is not carried over: ")


def test_a_section_that_says_nothing_keeps_folders_for_as_long_as_vac_does() -> None:
    kind = "machine_model = docker\nroot_image = docker://a:1\nuser_data = run\ntarget_share = 1\n"
    pipe = "[vacuum_pipe p]\nvacuum_pipe_url = https://p.example.org/\ntarget_share = 1\nmachines_dir_days = 0.5\n"
    text = f"[settings]\nvac_space = s.example.org\n[machinetype a]\n{kind}{pipe}"
    made = convert([("vac.conf", text)])
    assert made.configuration["machines_dir_days"] == 3
    [note] = [one for one in made.notes if "machines_dir_days" in one]
    assert "Vac had 0.5 for [vacuum_pipe p], 3 for [machinetype a]" in note
    # What it says nothing of, the pipe's machinetype has from the pipe.
    assert (
        convert([("vac.conf", text.replace("[machinetype a]", "[machinetype p-a]"))]).configuration["machines_dir_days"]
        == 0.5
    )
    assert "machines_dir_days" not in convert([("vac.conf", text.replace("machines_dir_days", "#"))]).configuration


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("root_device = vda", "root_device is not carried over: it is for virtual machines."),
        ("scratch_device = vdb", "scratch_device is not carried over: it is for virtual machines."),
        ("cernvm_signing_dn = x", "cernvm_signing_dn is now called image_signing_dn."),
        ("log_machineoutputs = x", "log_machineoutputs is not carried over: Vac ignores it as well."),
        ("user_data_proxy_cert = x", "user_data_proxy_cert is not carried over: Vac ignores it as well."),
        ("user_data_proxy_key = x", "user_data_proxy_key is not carried over: Vac ignores it as well."),
        ("rootpublickey = x", "rootpublickey is not carried over: Vac ignores it as well."),
        ("root_public_key = x", "root_public_key is not carried over: Vac ignores it as well."),
        ("machines_dir_days = long", "machines_dir_days is not carried over: it is no number."),
        ("what = 1", "what is not carried over: neither Vac nor this factory knows it."),
    ],
)
def test_an_option_without_meaning_here_is_named_and_costs_nothing(text: str, note: str) -> None:
    made, notes = machinetype(text)
    assert made is not None
    assert notes[0] == f"[machinetype t] {note}"


def test_apptainer_wants_an_account() -> None:
    made, notes = machinetype("machine_model = singularity\nroot_image = /cvmfs/a.cern.ch/x")
    assert made is not None
    assert notes[0] == "[machinetype t] is run by Apptainer, as an account that apptainer_account has to name."
    assert notes[1].startswith("Apptainer's machinetypes (t) are not started, for a factory has one engine")


def test_a_site_with_apptainer_alone_has_it_as_its_engine() -> None:
    text = (
        "[settings]\nvac_space = a.org\nsingularity_user = vacsing\n[machinetype t]\nmachine_model = singularity\n"
        "root_image = /cvmfs/a.cern.ch/x\ncontainer_command = /bin/true\n"
    )
    found = convert([("/etc/vac.conf", text)], HOST)
    assert check(found).engine == "apptainer"


CHANGES = (
    "[machinetype {}] changes what the vacuum pipe exp says of this machinetype; look whether it brings one of this"
    " name."
)
PIPE = "[settings]\nvac_space = a.org\n[vacuum_pipe exp]\nvacuum_pipe_url = https://a.org/p\n"


def test_a_machinetype_that_changes_a_pipes_is_carried_over() -> None:
    own = "target_share = 3\nbackoff_seconds = 60\nuser_data = run\n"
    found = convert_text(f"{PIPE}[machinetype exp-prod]\n{own}")
    assert check(found).overrides[0].values == {"target_share": 3.0, "backoff_seconds": 60, "user_data": "run"}
    assert found.notes[:-2] == (CHANGES.format("exp-prod"),)
    assert found.files == {"exp/files/run": "/var/lib/vac/machinetypes/exp/files/run"}


def test_a_machinetype_that_changes_one_of_a_pipe_that_is_left_out_is_left_out_too() -> None:
    found = convert_text(f"{PIPE}target_share = many\n[machinetype exp-prod]\nmachine_model = docker\n")
    assert found.configuration == {"space": "a.org"}
    assert "machinetypes.exp-prod.root_image: got '', expected the image" in found.notes[2]


def test_a_machinetype_of_its_own_beside_a_pipe_is_to_be_looked_at() -> None:
    own = "machine_model = docker\nroot_image = docker://a\nuser_data = https://a.org/u\n"
    found = convert_text(f"{PIPE}[machinetype exp-test]\n{own}[machinetype experiment]\n{own}")
    assert set(found.configuration["machinetypes"]) == {"exp-test", "experiment"}
    assert found.notes[:-2] == (CHANGES.format("exp-test"),)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("vacuum_pipe_url =", "vacuum_pipe_url: got '', expected the pipe's URL"),
        (
            "vacuum_pipe_url = ftp://a.org/p",
            "vacuum_pipe_url: got 'ftp://a.org/p', expected an http:// or https:// URL",
        ),
        ("target_share = many", "target_share: got 'many', expected a number from 0 to 1000000000."),
        ("machine_model = cernvm3", "machine_model: got 'cernvm3', expected one of docker"),
    ],
)
def test_a_pipe_that_is_refused_is_left_out_as_a_whole(text: str, note: str) -> None:
    found = convert_text(f"{PIPE}{text}\n")
    assert found.configuration == {"space": "a.org"}
    assert any(note in one for one in found.notes), found.notes
    assert any(one.startswith("[vacuum_pipe exp] as a whole is not carried over: ") for one in found.notes)


def test_a_prefix_that_is_none_is_named() -> None:
    found = convert_text("[settings]\nvac_space = a.org\n[vacuum_pipe a_b]\nvacuum_pipe_url = https://a.org/p\n")
    assert found.notes[0].startswith("[vacuum_pipe a_b] as a whole is not carried over: vacuum_pipe: got 'a_b'")


# ---- files of the site's -----------------------------------------------------------------------------------------

CONTAINER = "machine_model = docker\nroot_image = docker://a:1\n"


def test_a_file_for_all_machinetypes_comes_along_with_each_that_has_no_other() -> None:
    found = convert_text(
        f"[settings]\nvac_space = a.org\nuser_data_file_cert = cert.pem\nuser_data_file_gone = x\n"
        f"user_data_option_gone = y\n[machinetype a]\n{CONTAINER}user_data = sub/run\n"
        f"[machinetype b]\n{CONTAINER}user_data = https://a.org/u\nuser_data_option_cert = none\n"
        "[vacuum_pipe p]\nvacuum_pipe_url = https://a.org/p\nuser_data_file_cert = /etc/own.pem\n"
        "[machinetype refused]\nuser_data = x\nfizzle_seconds = y\nmachine_model = docker\n"
    )
    assert found.files == {
        "a/files/cert.pem": "/var/lib/vac/machinetypes/a/files/cert.pem",
        "a/files/run": "/var/lib/vac/machinetypes/a/files/sub/run",
        "p/files/own.pem": "/etc/own.pem",
    }


def test_two_files_of_one_name_are_told() -> None:
    text = f"{CONTAINER}user_data = /one/run\nuser_data_file_x = /two/run\n"
    found = convert_text(f"[settings]\nvac_space = a.org\n[machinetype a]\n{text}")
    assert "a/files/run would be of two files, /two/run and /one/run: rename one of them." in found.notes


def test_an_image_that_the_site_has_is_no_text_to_carry_over() -> None:
    text = "machine_model = singularity\nroot_image = pilot.sif\ncontainer_command = /bin/true\n"
    found = convert_text(f"[settings]\nvac_space = a.org\nsingularity_user = vac\n[machinetype a]\n{text}")
    assert found.files == {}
    assert found.notes[0].startswith(
        "Copy by hand /var/lib/vac/machinetypes/a/files/pilot.sif to machinetypes/a/files/"
    )


# ---- whatever the files say --------------------------------------------------------------------------------------

_OPTIONS = (
    "factories udp_timeout_seconds mb_per_processor hs06_per_processor processors_per_superslot total_processors"
    " overload_per_processor shutdown_time draining volume_group disk_gb_per_processor singularity_user gocdb_sitename"
    " description vacmon_hostport version_logger machinefeatures_option_a user_data_option_a user_data_file_a"
    " root_public_key cpu_total overload_per_cpu scratch_gb disk_gb_per_cpu vcpu_per_machine cpu_per_machine mb_per_cpu"
    " hs06_per_cpu target_share machinegroup machine_model root_image user_data container_command cvmfs_repositories"
    " tmp_binds min_processors max_processors max_wallclock_seconds min_wallclock_seconds backoff_seconds"
    " fizzle_seconds heartbeat_file heartbeat_seconds accounting_fqan machines_dir_days user_data_proxy legacy_proxy"
    " image_signing_dn vm_model machineoutputs_days vacuum_pipe_url user_data_option_b user_data_file_b"
).split()
_VALUES = (
    "0 1 8 10.5 -1 9999999999999 yes True docker singularity cernvm3 docker://a:1 /cvmfs/a.cern.ch/x https://a.org/p"
    " user_data /etc/user_data /user_data a.cern.ch /scratch /atlas/Role=pilot a b.org . vg root m.org:8884 x;y"
).split()
_LINES = st.lists(
    st.tuples(
        st.sampled_from(_OPTIONS), st.lists(st.sampled_from(_VALUES), max_size=2).map(" ".join) | st.text(max_size=9)
    ),
    max_size=9,
)
_FILES = st.lists(
    st.tuples(
        st.sampled_from(["settings", "machinetype a", "machinetype exp-a", "vmtype b", "vacuum_pipe exp", "x"]), _LINES
    ),
    max_size=5,
)


@effort(max_examples=200, deadline=None)
@given(_FILES, st.sampled_from(["", HOST]))
def test_whatever_the_files_say_a_factory_takes_what_comes_of_it(
    files: list[tuple[str, list[tuple[str, str]]]], host: str
) -> None:
    text = "".join(
        f"[{section}]\n" + "".join(f"{name} = {' '.join(value.split())}\n" for name, value in lines)
        for section, lines in files
    )
    found = convert([("f", "[settings]\nvac_space = a.org\n"), ("g", text)], host)
    assert check(found).space == "a.org"
    assert "\n" not in "".join(found.notes)
