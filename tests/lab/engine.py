# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An engine of the tests' own: dockerd, or podman's service, in its own network namespace with its own folders."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.lab.hosts import run
from tests.lab.lan import add_netns, delete_netns


def unmount_below(folder: Path) -> None:
    """Unmount what an engine has left mounted in its folder, the newest first."""
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        mount_point = line.split()[1]
        if mount_point.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mount_point], check=True, timeout=30)


class Dockerd:
    """A dockerd that a test may kill, restart and reconfigure.

    :param folder: for its data, state, log and socket; removed with it.
    :param netns: its network namespace; made and removed with it.
    :param enter: a command before it: it enters further namespaces.
    """

    def __init__(self, folder: Path, netns: str, arguments: tuple[str, ...] = (), enter: tuple[str, ...] = ()) -> None:
        self._lay_out(folder, netns, arguments, enter)
        folder.mkdir(parents=True, exist_ok=True)
        add_netns(netns)

    def _lay_out(self, folder: Path, netns: str, arguments: tuple[str, ...] = (), enter: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.netns = netns
        self.arguments, self.enter = arguments, enter
        self.socket = folder / "docker.sock"
        self.url = f"unix://{self.socket}"
        self.config = folder / "daemon.json"
        self.log = folder / "dockerd.log"
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def found(cls, folder: Path, netns: str) -> Dockerd:
        """One that another process made; it may be running or not."""
        engine = cls.__new__(cls)
        engine._lay_out(folder, netns)
        return engine

    def start(self, seconds: float = 30) -> None:
        """Start it and wait until it answers."""
        if not self.config.exists():
            self.config.write_text("{}\n")
        self._forget_containerd()
        environment = {key: value for key, value in os.environ.items() if key != "DOCKER_HOST"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "nsenter", f"--net=/run/netns/{self.netns}", *self.enter, "/usr/sbin/dockerd",
                    "--config-file", str(self.config), "--data-root", str(self.folder / "data"),
                    "--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid"),
                    "--host", self.url, *self.arguments,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + seconds
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"dockerd in {self.folder} did not answer within {seconds} s:\n{tail}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        return self.socket.exists() and self.docker("version", check=False).returncode == 0

    def docker(self, *arguments: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the docker client against it: the other tool, with which tests look at what a module did."""
        done = subprocess.run(
            ["docker", "--host", self.url, *arguments], check=False, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
        return done

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the daemon by a signal and wait for it; containers live on with live-restore."""
        ended = os.pidfd_open(self.pid)
        os.kill(self.pid, number)
        if not select.select([ended], [], [], 60)[0]:
            raise RuntimeError(f"dockerd in {self.folder} had not ended 60 s after signal {number}")
        os.close(ended)
        if self.process is not None:
            self.process.wait(timeout=60)
        self.process = None

    def _forget_containerd(self, seconds: float = 10) -> None:
        """A killed dockerd takes its containerd along; until PID 1 has buried that, the next one takes it for alive."""
        pidfile = self.folder / "exec/containerd/containerd.pid"
        deadline = time.monotonic() + seconds
        while pidfile.exists():
            try:
                state = Path(f"/proc/{int(pidfile.read_text())}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                state = "X"
            if state in "ZX":
                pidfile.unlink(missing_ok=True)
            elif time.monotonic() > deadline:
                raise RuntimeError(f"the containerd of the dockerd in {self.folder} has not ended with it")
            else:
                time.sleep(0.02)

    def remove(self) -> None:
        """Remove its containers, stop it, remove all its files and its namespace."""
        if not self._answers():
            if not os.path.exists(f"/run/netns/{self.netns}"):
                add_netns(self.netns)
            self.start()
        names = self.docker("ps", "--all", "--quiet").stdout.split()
        if names:
            self.docker("rm", "--force", "--volumes", *names)
        self.kill(signal.SIGTERM)
        unmount_below(self.folder)
        shutil.rmtree(self.folder)
        delete_netns(self.netns)


class PodmanService:
    """Podman behind its Docker-compatible socket, with storage of its own.

    And with a /run/containers of its own, in a mount namespace: there Podman 4.3 remembers, for all its storages of a
    machine and by the networks' names, which address belongs to which container. What a killed run leaves in it would
    keep an address from a later one. And with a /var/tmp of its own, where a killed one leaves what it was loading.
    """

    def __init__(self, folder: Path, netns: str) -> None:
        self.folder = folder
        self.netns = netns
        self.socket = folder / "podman.sock"
        self.url = f"unix://{self.socket}"
        self.log = folder / "podman.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._mounts = -1
        folder.mkdir(parents=True, exist_ok=True)
        add_netns(netns)
        # Without CAP_SYS_RESOURCE (a container, some CI) hard limits cannot be raised to podman's defaults.
        (folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\n'
            '[engine]\nevents_logger = "file"\ncgroup_manager = "cgroupfs"\n'
            f'[network]\nnetwork_config_dir = "{folder}/networks"\n'
        )
        # A registry on the loopback needs no TLS, as for Docker.
        (folder / "registries.conf").write_text('[[registry]]\nlocation = "127.0.0.1:5000"\ninsecure = true\n')

    def podman(self, *arguments: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self._argv(*arguments), check=False, capture_output=True, text=True, timeout=timeout, env=self._env()
        )
        if check and done.returncode:
            raise RuntimeError(f"podman {' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
        return done

    def _argv(self, *arguments: str) -> list[str]:
        folders = [f"--{name}={self.folder / name}" for name in ("root", "runroot", "tmpdir")]
        return ["nsenter", f"--net=/run/netns/{self.netns}", *self._way_in(), "podman", *folders, *arguments]

    @property
    def enter(self) -> list[str]:
        """The command that enters its mount namespace, once it has started."""
        return ["nsenter", f"--mount=/proc/{os.getpid()}/fd/{self._mounts}", f"--wd={os.getcwd()}"]

    def run_there(self, *argv: str) -> str:
        """Run a command in its mount namespace; what it printed."""
        return run(*self.enter, *argv)

    def _way_in(self) -> list[str]:
        if self._mounts >= 0:
            return self.enter
        own = 'mount -t tmpfs gridbox /run/containers && mount -t tmpfs gridbox /var/tmp && exec "$@"'
        return ["unshare", "--mount", "--propagation=slave", "sh", "-c", own, "sh"]

    def seen(self, path: str) -> str:
        """Where something that Podman has mounted is found from outside its mount namespace."""
        assert self.process is not None
        return f"/proc/{self.process.pid}/root{path}"

    def _env(self) -> dict[str, str]:
        files = {"CONTAINERS_CONF": "containers.conf", "CONTAINERS_REGISTRIES_CONF": "registries.conf"}
        return {**os.environ, **{name: str(self.folder / file) for name, file in files.items()}}

    def start(self, seconds: float = 30) -> None:
        """Start it, unless it runs, and wait until it listens."""
        if self.process is not None:
            return
        Path("/run/containers").mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv("system", "service", "--time", "0", self.url),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env(), start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + seconds
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"podman's service did not listen within {seconds} s:\n{self.log.read_text()[-2000:]}"
                )
            time.sleep(0.05)
        if self._mounts < 0:  # the next one finds what this one has mounted
            self._mounts = os.open(f"/proc/{self.process.pid}/ns/mnt", os.O_RDONLY)

    def kill(self) -> None:
        """End the service by SIGKILL; containers live on, for each has a process of its own that looks after it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=30)
        self.process = None
        self.socket.unlink()

    def remove(self) -> None:
        self.podman("rm", "--all", "--force", "--time", "0")
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)
        os.close(self._mounts)
        unmount_below(self.folder)
        shutil.rmtree(self.folder)
        delete_netns(self.netns)
