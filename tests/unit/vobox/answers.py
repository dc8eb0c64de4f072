# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Answers of an engine, shaped as Docker 20.10.24 gave them."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.vobox.container_json import create_body

IMAGE: dict[str, t.Any] = {
    "Id": "sha256:" + "a" * 64,
    "Architecture": "amd64",
    "Config": {
        "Env": ["PATH=/usr/bin:/bin", "LANG=C"],
        "Cmd": ["/etc/init.sh"],
        "Entrypoint": None,
        "Labels": {"vendor": "site"},
        "Volumes": {"/var/spool": {}},
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 10_000_000_000},
        "WorkingDir": "/srv",
    },
    "RootFS": {"Layers": ["sha256:1"]},
}


def container_of(
    values: t.Mapping[str, t.Any], running: bool = True, body: dict[str, t.Any] | None = None
) -> dict[str, t.Any]:
    """What an inspect says of a container that was created with these values."""
    body = body or create_body(
        "vobox1", IMAGE["Id"], values, "/var/lib/hep.gridbox/voboxes/vobox1", "c0ffee", (1, 41), "docker"
    )
    image = IMAGE["Config"]
    asked = {key: value for key, value in body.items() if key not in ("HostConfig", "NetworkingConfig")}
    environment = {line.partition("=")[0]: line for line in (*image["Env"], *asked["Env"])}
    config = {
        **image,
        **{key: value for key, value in asked.items() if value not in (None, [], {})},
        "Env": list(environment.values()),
        "Labels": {**image["Labels"], **asked["Labels"]},
        "Image": asked["Image"],
    }
    if asked.get("Entrypoint"):
        config["Cmd"] = asked.get("Cmd") or None
    host = dict(body["HostConfig"])
    if host.get("Memory") and not host.get("MemorySwap"):
        host["MemorySwap"] = 2 * host["Memory"]
    # The engine shows it as it keeps it.
    if host["PidsLimit"] == -1:
        host["PidsLimit"] = None
    host.setdefault("ShmSize", 64 << 20)
    mounts = [
        {
            "Type": mount["Type"],
            **({"Name": mount["Source"]} if mount["Type"] == "volume" else {}),
            "Source": mount["Source"]
            if mount["Type"] == "bind"
            else f"/var/lib/docker/volumes/{mount['Source']}/_data",
            "Destination": mount["Target"],
            "RW": not mount["ReadOnly"],
            "Propagation": (mount.get("BindOptions") or {}).get("Propagation", ""),
        }
        for mount in host["Mounts"]
    ]
    mounts.append({"Type": "volume", "Name": "d" * 64, "Source": "/x", "Destination": "/var/spool", "RW": True})
    network = host["NetworkMode"]
    endpoint = body["NetworkingConfig"]["EndpointsConfig"][network]
    fixed = endpoint["IPAMConfig"]
    return {
        "Id": "1" * 64,
        "Name": "/vobox1",
        "Image": asked["Image"],
        "Config": config,
        "HostConfig": host,
        "Mounts": mounts,
        "State": {"Running": running, "Restarting": False, "Status": "running" if running else "exited", "Pid": 0},
        "NetworkSettings": {
            "Networks": {
                network: {
                    "IPAMConfig": fixed,
                    "IPAddress": fixed.get("IPv4Address", "") if running else "",
                    "GlobalIPv6Address": fixed.get("IPv6Address", "") if running else "",
                    "MacAddress": asked.get("MacAddress", "") if running else "",
                }
            }
        },
    }
