# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this from other collections or standalone plugins/modules!

"""Options of every module that talks to an engine."""

from __future__ import annotations


class ModuleDocFragment:
    """Matches ``front_room.ENGINE_ARGUMENTS``."""

    DOCUMENTATION = r"""
options:
  engine:
    description:
      - Which engine to talk to when O(engine_url) is not given.
      - V(auto) takes Docker if its socket exists, else Podman.
    type: str
    choices: [auto, docker, podman]
    default: auto
  engine_url:
    description:
      - Where the engine listens, for instance V(unix:///var/run/docker.sock).
      - Without it, the environment variable E(DOCKER_HOST) is used, else the socket of O(engine).
    type: str
  engine_timeout:
    description:
      - Seconds without an answer after which a request to the engine fails. For streams, seconds without a byte.
    type: int
    default: 60
requirements:
  - the Python library C(docker), 5.0 or later, on the host (Debian, Ubuntu, EPEL C(python3-docker)), if the engine is not asked
    over a Unix socket
"""
