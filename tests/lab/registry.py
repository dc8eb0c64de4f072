# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A registry in a network namespace, with the test image in it; no engine is needed to put it there."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import signal
import subprocess
import time
import typing as t
from pathlib import Path

import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.network.wire import inside
from tests.lab.hosts import lives
from tests.lab.image import busybox_tar


class Registry:
    """A registry that outlives this process; all of it lies in its folder.

    :param address: ``HOST:PORT`` on which it listens in the namespace.
    """

    def __init__(self, netns: str, address: str, folder: Path) -> None:
        self.address = address
        self._netns, self._folder = netns, folder
        self._pidfile = folder / "pid"

    def start(self, seconds: float = 20) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        config, log = self._folder / "registry.yml", self._folder / "registry.log"
        storage = {"filesystem": {"rootdirectory": str(self._folder / "registry")}}
        config.write_text(yaml.safe_dump({"version": "0.1", "storage": storage, "http": {"addr": self.address}}))
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self._netns}", "docker-registry", "serve", str(config)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        self._pidfile.write_text(str(process.pid))
        deadline = time.monotonic() + seconds
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Waited {seconds:g} s for the registry: {log.read_text()[-500:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            self._ask("GET", "/v2/")
        except OSError:
            return False
        return True

    def stop(self, seconds: float = 20) -> None:
        """End it; what it holds stays in its folder."""
        if not self._pidfile.exists():
            return
        pid = int(self._pidfile.read_text())
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        while lives(pid):
            if time.monotonic() > deadline:
                raise RuntimeError(f"Waited {seconds:g} s for the registry's process {pid} to end.")
            time.sleep(0.05)
        self._pidfile.unlink()

    def digest(self, repository: str, tag: str) -> str:
        """What a tag stands for now."""
        [link] = (self._folder / "registry").glob(f"**/{repository}/_manifests/tags/{tag}/current/link")
        return link.read_text().strip()

    def put(self, repository: str, tag: str, root: bytes | None = None) -> str:
        """Put an image of one layer there, and return its name; without a root's tar it is the test image."""
        root = busybox_tar() if root is None else root
        layer = gzip.compress(root, compresslevel=1, mtime=0)
        config = {
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(root)]},
        }  # fmt: skip
        text = json.dumps(config).encode()
        kind = "application/vnd.docker"
        manifest = {
            "schemaVersion": 2, "mediaType": f"{kind}.distribution.manifest.v2+json",
            "config": self._blob(repository, text, f"{kind}.container.image.v1+json"),
            "layers": [self._blob(repository, layer, f"{kind}.image.rootfs.diff.tar.gzip")],
        }  # fmt: skip
        path = f"/v2/{repository}/manifests/{tag}"
        self._ask("PUT", path, json.dumps(manifest).encode(), str(manifest["mediaType"]))
        return f"{self.address}/{repository}:{tag}"

    def _blob(self, repository: str, data: bytes, kind: str) -> dict[str, t.Any]:
        place = self._ask("POST", f"/v2/{repository}/blobs/uploads/")
        path = "/" + place.split("/", 3)[3] if place.startswith("http") else place
        self._ask("PUT", f"{path}{'&' if '?' in path else '?'}digest={_digest(data)}", data, "application/octet-stream")
        return {"mediaType": kind, "size": len(data), "digest": _digest(data)}

    def _ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> str:
        with inside(f"/run/netns/{self._netns}"):
            connection = http.client.HTTPConnection(self.address, timeout=30)
            connection.connect()
        connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return answer.getheader("Location", "")


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
