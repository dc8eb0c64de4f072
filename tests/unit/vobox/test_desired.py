# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is asked for: what is refused, by which sentence, and what the rest is normalised to."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from tests.unit.vobox.wishes import LIMITS, NETWORK, NOTHING, wish

LOG = {"driver": None, "max_size": None, "max_file": None}
HEALTH = {"test": ["true"], "interval": 30, "timeout": 10, "retries": 3, "start_period": 0}
VOLUME = {"source": "state", "target": "/state", "read_only": False, "propagation": "rprivate"}
DNS = {"servers": None, "search": None, "hosts": None}
CVMFS = {"path": "/cvmfs", "repositories": [], "propagation": "rslave"}
LEAST = {"profile": "least", "capabilities": None, "devices": []}
WEB = {"name": "web", "port": 80, "protocol": "tcp"}

REFUSED: list[tuple[dict[str, t.Any], str]] = [
    ({"name": "x"}, "name: got 'x', expected 2 to 60"),
    ({"name": "a b"}, "name: got 'a b'"),
    ({"name": "../etc"}, "name: got '../etc'"),
    ({"name": "vobox1.next"}, "not ending in .next, .stand-in or .previous"),
    ({"files": "voboxes"}, "files: got 'voboxes', expected an absolute path"),
    ({"image": "-v"}, "image: got '-v'"),
    ({"image": "a b"}, "image: got 'a b'"),
    ({"hostname": "vobox1"}, "hostname: got 'vobox1', expected a fully qualified"),
    ({"hostname": "vobox_1.example.org"}, "hostname: got 'vobox_1.example.org'"),
    ({"hostname": "-a.example.org"}, "hostname: got"),
    ({"hostname": "a" * 60 + ".example.org"}, "at most 64 characters"),
    ({"network": {**NETWORK, "name": "host"}}, "network.name: got 'host'"),
    ({"network": {**NETWORK, "ipv4": "10.0.0.10/24"}}, "network.ipv4: got '10.0.0.10/24', expected an IPv4 address"),
    ({"network": {**NETWORK, "ipv4": "fd00::1"}}, "network.ipv4: got 'fd00::1'"),
    ({"network": {**NETWORK, "ipv4": "224.0.0.1"}}, "network.ipv4: got '224.0.0.1'"),
    ({"network": {**NETWORK, "ipv6": "10.0.0.1"}}, "network.ipv6: got '10.0.0.1', expected an IPv6 address"),
    ({"network": {**NETWORK, "ipv6": "fe80::1%eth0"}}, "network.ipv6: got"),
    ({"network": {**NETWORK, "mac": "02:00"}}, "network.mac: got '02:00', expected a MAC"),
    ({"network": {**NETWORK, "mac": "03:00:00:00:00:01"}}, "unicast, locally administered"),
    ({"network": {**NETWORK, "mac": "00:16:3e:00:00:01"}}, "unicast, locally administered"),
    ({"init_script": "echo\n"}, "init_script: got 'echo', expected a first line that names the interpreter"),
    ({"init_script": ""}, "init_script: got ''"),
    ({"init_script": "#!/bin/sh\r\n"}, "lines that end with LF"),
    ({"init_script_version": "abc"}, "init_script_version: got 'abc', expected 64 hexadecimal digits"),
    ({"cvmfs": {**CVMFS, "path": "cvmfs"}}, "cvmfs.path: got 'cvmfs'"),
    ({"cvmfs": {**CVMFS, "repositories": ["../etc"]}}, "cvmfs.repositories[0]: got '../etc'"),
    ({"host_certificate": {"certificate": "a.pem", "key": "/k"}}, "host_certificate.certificate: got 'a.pem'"),
    ({"volumes": [{**VOLUME, "source": "a/b"}]}, "volumes[0].source: got 'a/b'"),
    ({"volumes": [{**VOLUME, "target": "state"}]}, "volumes[0].target: got 'state'"),
    ({"volumes": [{**VOLUME, "target": "/"}]}, "volumes[0].target: got '/'"),
    ({"volumes": [{**VOLUME, "target": "/cvmfs"}]}, "a path that no other option of this module mounts"),
    ({"volumes": [{**VOLUME, "target": "/run/hep.gridbox"}]}, "volumes[0].target: got '/run/hep.gridbox'"),
    ({"volumes": [{**VOLUME, "target": "/run/hep.gridbox/x"}]}, "volumes[0].target: got '/run/hep.gridbox/x'"),
    ({"volumes": [{**VOLUME, "target": "/run/"}]}, "volumes[0].target: got '/run/', expected a path that is neither"),
    ({"volumes": [{**VOLUME, "target": "/etc"}]}, "volumes[0].target: got '/etc', expected a path that is neither"),
    ({"volumes": [{**VOLUME, "target": "//etc/init.sh"}]}, "volumes[0].target: got '//etc/init.sh'"),
    ({"volumes": [{**VOLUME, "target": "//"}]}, "volumes[0].target: got '//'"),
    ({"volumes": [{**VOLUME, "target": "/a\nb"}]}, "volumes[0].target: got '/a\\nb', expected one line of text"),
    ({"volumes": [{**VOLUME, "source": "/a\tb"}]}, "volumes[0].source: got '/a\\tb', expected one line of text"),
    ({"volumes": [{**VOLUME, "propagation": "rslave"}]}, "volumes[0].propagation: got 'rslave', expected rprivate"),
    ({"volumes": [VOLUME, {**VOLUME, "target": "/state/"}]}, "volumes[1].target: got '/state/'"),
    ({"limits": {**LIMITS, "nofile": "many"}}, "limits.nofile: got 'many', expected soft:hard"),
    ({"limits": {**LIMITS, "nofile": "2:1"}}, "a soft limit that is not above the hard limit"),
    ({"limits": {**LIMITS, "nofile": "1:2:3"}}, "limits.nofile: got '1:2:3'"),
    ({"limits": {**LIMITS, "nofile": "-1"}}, "always finite"),
    ({"limits": {**LIMITS, "nofile": "8192:-1"}}, "limits.nofile: got '8192:-1', expected numbers of 1 or more"),
    ({"limits": {**LIMITS, "core": f"0:{1 << 63}"}}, "limits.core: got '0:9223372036854775808'"),
    ({"limits": {**LIMITS, "pids": 0}}, "limits.pids: got 0"),
    ({"limits": {**LIMITS, "pids": 4194305}}, "limits.pids: got 4194305, expected a whole number from 1 to 4194304"),
    ({"limits": {**LIMITS, "pids": 2**70}}, "limits.pids: got 1180591620717411303424"),
    ({"limits": {**LIMITS, "memory": "8388608t"}}, "limits.memory: got '8388608t', expected a size below 8388608t"),
    ({"stop_timeout": 2**31}, "stop_timeout: got 2147483648, expected a whole number from 0 to 2147483647"),
    ({"limits": {**LIMITS, "memory": "lots"}}, "limits.memory: got 'lots', expected a size"),
    ({"limits": {**LIMITS, "memory": "1m"}}, "6m or more"),
    ({"limits": {**LIMITS, "memory_swap": "1g"}}, "limits.memory beside it"),
    ({"limits": {**LIMITS, "memory": "1g", "memory_swap": "512m"}}, "at least limits.memory"),
    ({"limits": {**LIMITS, "cpus": -1.0}}, "limits.cpus: got -1.0"),
    ({"limits": {**LIMITS, "shm_size": "0"}}, "limits.shm_size: got '0'"),
    ({"privileges": {**LEAST, "capabilities": ["FLY"]}}, "privileges.capabilities[0]: got 'FLY'"),
    ({"privileges": {**LEAST, "profile": "full", "capabilities": ["KILL"]}}, "privileges.capabilities: got ['KILL']"),
    ({"privileges": {**LEAST, "devices": ["fuse"]}}, "privileges.devices[0]: got 'fuse'"),
    ({"log": {**LOG, "driver": "journald", "max_size": "1m"}}, "log.max_size: got '1m', expected nothing"),
    ({"log": {**LOG, "max_file": 0}}, "log.max_file: got 0"),
    ({"health": {**HEALTH, "interval": 0}}, "health.interval: got 0"),
    ({"services": [{**WEB, "port": 70000}]}, "services[0].port: got 70000"),
    ({"services": [WEB, {**WEB, "name": "again"}]}, "services[1].port: got 80, expected a port that no other"),
    ({"services": [{**WEB, "name": "web\nsquid"}]}, "services[0].name: got 'web\\nsquid', expected one line of text"),
    ({"services": [{**WEB, "name": "\x1b[2J"}]}, "services[0].name: got '\\x1b[2J'"),
    ({"services": [{**WEB, "name": " "}]}, "services[0].name: got ' '"),
    ({"environment": {"A": True}}, "environment.A: got True, expected text"),
    ({"environment": {"A": 1.10}}, "Put it in quotes"),
    ({"environment": {"A-B": "x"}}, "environment.A-B: got 'x'"),
    ({"environment": {"A": "x\ny"}}, "one line of text"),
    ({"labels": {"a": ["b"]}}, "labels.a: got ['b'], expected text"),
    (
        {"labels": {"hep.gridbox.replaces": "{}"}},
        "labels.hep.gridbox.replaces: got '{}', expected a name that does not",
    ),
    ({"labels": {"hep.gridbox.mine": "1"}}, "labels.hep.gridbox.mine: got '1'"),
    ({"labels": {"a\nb": "1"}}, "labels: got 'a\\nb', expected one line of text"),
    ({"dns": {**DNS, "servers": ["ns1"]}}, "dns.servers[0]: got 'ns1'"),
    ({"dns": {**DNS, "hosts": {"a": "b"}}}, "dns.hosts.a: got 'b', expected an address"),
    ({"dns": {**DNS, "hosts": {"a:b": "10.0.0.1"}}}, "dns.hosts: got 'a:b', expected names of machines"),
    ({"dns": {**DNS, "hosts": {"a b": "10.0.0.1"}}}, "dns.hosts: got 'a b'"),
    ({"dns": {**DNS, "hosts": {"a": 5}}}, "dns.hosts.a: got 5, expected an address"),
    ({"dns": {**DNS, "search": ["a.org b.org"]}}, "dns.search[0]: got 'a.org b.org', expected a domain"),
    ({"dns": {**DNS, "search": ["a.org", "b\noptions debug"]}}, "dns.search[1]: got 'b\\noptions debug'"),
    ({"dns": {**DNS, "search": [""]}}, "dns.search[0]: got ''"),
    ({"sysctls": {"vm.swappiness": "1"}}, "sysctls.vm.swappiness: got '1'"),
    ({"stop_timeout": -1}, "stop_timeout: got -1"),
    ({"swap": {**NOTHING["swap"], "health_timeout": 0}}, "swap.health_timeout: got 0"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said[:60] for _given, said in REFUSED])
def test_a_wrong_value_gets_one_sentence(given: dict[str, t.Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        wish(**given)
    assert said in str(refused.value)


def test_nothing_given_is_nothing_compared() -> None:
    made = wish()
    assert dict(made.values) == {}
    assert (made.image, made.services, made.privileges, made.script_sha256) == (None, None, None, None)


@pytest.mark.parametrize(
    ("given", "option", "value"),
    [
        ({"hostname": "VObox1.Example.ORG."}, "hostname", "vobox1.example.org"),
        ({"network": {**NETWORK, "ipv6": "FD00:0:0::0010"}}, "network.ipv6", "fd00::10"),
        ({"network": {**NETWORK, "mac": "02-AB-00-00-00-01"}}, "network.mac", "02:ab:00:00:00:01"),
        ({"limits": {**LIMITS, "nofile": "8192"}}, "limits.nofile", (8192, 8192)),
        ({"limits": {**LIMITS, "core": "-1"}}, "limits.core", (-1, -1)),
        ({"limits": {**LIMITS, "memory": "4G"}}, "limits.memory", 4 << 30),
        ({"limits": {**LIMITS, "memory": "512mb"}}, "limits.memory", 512 << 20),
        ({"limits": {**LIMITS, "memory": "1g", "memory_swap": "-1"}}, "limits.memory_swap", -1),
        ({"log": {**LOG, "max_size": "10240k"}}, "log.max_size", 10 << 20),
        ({"health": {**HEALTH, "test": []}}, "health", ()),
        ({"health": HEALTH}, "health", (("CMD", "true"), 30, 10, 3, 0)),
        ({"volumes": [VOLUME, {**VOLUME, "target": "/a//b/"}]}, "volumes",
         (("/a/b", "state", False, "rprivate"), ("/state", "state", False, "rprivate"))),
        ({"volumes": [{**VOLUME, "source": "//data/x", "target": "//state"}]}, "volumes",
         (("/state", "/data/x", False, "rprivate"),)),
        ({"volumes": [{**VOLUME, "target": "/etc/init.shared"}, {**VOLUME, "target": "/run/hep"}]}, "volumes",
         (("/etc/init.shared", "state", False, "rprivate"), ("/run/hep", "state", False, "rprivate"))),
        ({"limits": {**LIMITS, "pids": 4194304}}, "limits.pids", 4194304),
        ({"dns": {**DNS, "hosts": {"squid_1": "FD00:0::1"}}}, "dns.hosts", {"squid_1": "fd00::1"}),
        ({"dns": {**DNS, "search": ["example.org.", "."]}}, "dns.search", ("example.org.", ".")),
        ({"environment": {"A": 1}}, "environment", {"A": "1"}),
        ({"labels": {}}, "labels", {}),
    ],
)  # fmt: skip
def test_values_have_one_normal_form(given: dict[str, t.Any], option: str, value: t.Any) -> None:
    assert wish(**given).values[option] == value


def test_paths_of_the_certificate_are_told_as_the_engine_will_tell_them() -> None:
    asked = wish(host_certificate={"certificate": "/etc/grid-security//hostcert.pem", "key": "/etc/./hostkey.pem"})
    assert asked.values["host_certificate"] == ("/etc/grid-security/hostcert.pem", "/etc/hostkey.pem")
