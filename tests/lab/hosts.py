# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines for the roles: systemd as PID 1 on a fresh Debian, in namespaces of their own.

A machine's root is a copy (two seconds) of one image, which mmdebstrap makes from Debian packages, once, into a cache
folder. An overlay would be quicker, but an engine's own overlays do not work on top of one. A machine has a network
namespace of its own name, without a way out but for what somebody plugs into it (tests/lab/fleet.py), so the image
carries the packages that the roles install as a local repository. Its sshd lets in the key of the lab.
``/proc/sys`` is read-only but for what belongs to the machine's own namespaces: a role cannot change a setting of the
kernel that the machines share with the real one.

Command line, for playbooks and for people::

    python tests/lab/hosts.py start NAME [SUITE]   # boots it; prints nothing
    python tests/lab/hosts.py run NAME CMD...      # runs a command in it
    python tests/lab/hosts.py stop NAME            # ends it and removes all of it
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import typing as t
from pathlib import Path

#: The Debian of a machine that names none.
SUITE = "bookworm"

#: What a freshly installed server has before any role came: no engine, no time service but systemd's.
BASE = (
    "systemd systemd-sysv dbus python3 openssh-server openssh-client sudo procps kmod iproute2 iputils-ping"
    " ca-certificates fuse3 autofs libpam-systemd util-linux-extra systemd-timesyncd busybox"
).split()  # fmt: skip

#: What the roles may install; with their dependencies they are the machine's package repository.
REPOSITORY = (
    "docker.io apparmor busybox-static iptables python3-docker python3-pyroute2 python3-apt squashfuse squashfs-tools"
    " chrony lynis passt"
).split()

#: What is in a machine when it is made, beside: nothing, or what the role docker_engine would install.
IMAGES = {"bare": [], "engine": ["docker.io", "apparmor", "iptables", "python3-docker", "python3-pyroute2"]}

#: What of the base has to go for it, and comes back.
REPLACED = ("busybox", "systemd-timesyncd")

#: What a newer Debian has in packages of its own.
SPLIT_OFF = {"trixie": ["docker-cli"]}

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hep.gridbox"

#: One line of apt's sources.
SOURCES = "deb [trusted=yes] file:/srv/packages ./\n"


def run(*argv: str, timeout: float = 60) -> str:
    """Run a command of the real machine; its output is in the error when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- the image ----------------------------------------------------------------------------------------------------


def image(suite: str, name: str = "bare") -> Path:
    """What machines are made from: the folder ``root`` in this one; and in that of the bare one, ``packages``.

    It is made now if it is not there, or if its recipe has changed.

    :param name: of :data:`IMAGES`.
    """
    if name != "bare":
        base, packages = image(suite), with_split_off(suite, IMAGES[name])
        recipe = hashlib.sha256(f"{base.name} {packages} 1".encode()).hexdigest()[:12]
        return made_once(f"{name}-{suite}", recipe, lambda folder: _add(folder, base, packages))
    recipe = hashlib.sha256(f"{suite} {BASE} {_repository(suite)} {REPLACED} 6".encode()).hexdigest()[:12]
    return made_once(f"machine-{suite}", recipe, lambda folder: _make(folder, suite))


def _make(folder: Path, suite: str) -> None:
    bootstrap(folder, suite, BASE)
    # What acts on hardware, or wants a network, is not for a machine without either.
    run("chroot", str(folder / "root"), "systemctl", "mask", *OFF, "getty@tty1.service", "console-getty.service",
        "sys-kernel-debug.mount", "sys-kernel-tracing.mount")  # fmt: skip


def with_split_off(suite: str, packages: t.Sequence[str]) -> list[str]:
    """These packages, and what a newer Debian has in packages of its own: with an engine comes its client."""
    return [*packages, *(SPLIT_OFF.get(suite, []) if "docker.io" in packages else [])]


def _add(folder: Path, base: Path, packages: list[str]) -> None:
    folder.mkdir()
    root = folder / "root"
    run("cp", "--archive", "--reflink=auto", str(base / "root"), str(root), timeout=300)
    policy = root / "usr/sbin/policy-rc.d"  # nothing is to be started on the real machine
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    # In a mount namespace of its own, with which the mounts go.
    script = 'mount --bind "$1" "$2/srv/packages"; mount -t proc proc "$2/proc"; shift; exec chroot "$@"'
    run("unshare", "--mount", "sh", "-euc", script, "sh", str(base / "packages"), str(root), *INSTALL, *packages,
        timeout=600)  # fmt: skip
    policy.unlink()


def made_once(
    kind: str, recipe: str, make: t.Callable[[Path], None], in_use: t.Callable[[], bool] = lambda: False
) -> Path:
    """A folder of the cache, made now if it is not there; those of other recipes, and one half made, go.

    :param make: fills the folder that it is given, which is not there yet.
    :param in_use: whether somebody may still work with another recipe's.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / f"{kind}-{recipe}"
    with (CACHE / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second test run waits for the first one's
        if not folder.exists():
            new = folder.with_suffix(".new")
            for old in CACHE.glob(f"{kind}-*"):
                if old == new or not in_use():
                    shutil.rmtree(old)
            make(new)
            new.rename(folder)
    return folder


INSTALL = "env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install".split()

#: What would do things by itself in the middle of a test.
OFF = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer")


def mirror() -> str:
    """Where this machine gets Debian's packages from."""
    sources = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main")
    return next(line for line in sources.splitlines() if "security" not in line)


def key() -> Path:
    """The private key that opens every host of the lab; ``.pub`` beside it."""
    return made_once("key", "ed25519", _make_key) / "id"


def _make_key(folder: Path) -> None:
    folder.mkdir()
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(folder / "id"))


#: Seconds until somebody is logged in. The exchange of keys is in it, which an emulated machine computes for some
#: seconds, and longer on a busy machine.
LOGIN_SECONDS = 20


def ssh_options() -> list[str]:
    """What ssh, and Ansible's connection, need for a host of the lab, which is known by its name."""
    way = shlex.join([sys.executable, str(Path(__file__).with_name("way_in.py")), "%h"])
    return [
        "-o", f"ProxyCommand={way}", "-o", "ProxyUseFdpass=yes", "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
        "-o", f"ConnectTimeout={LOGIN_SECONDS}",
    ]  # fmt: skip


def ssh(name: str, *options: str) -> list[str]:
    """The ssh command that reaches a host of the lab."""
    return ["ssh", "-i", str(key()), *ssh_options(), *options, f"root@{name}"]


def _repository(suite: str) -> list[str]:
    return with_split_off(suite, REPOSITORY)


def bootstrap(folder: Path, suite: str, base: list[str]) -> None:
    """Make the folders ``root``, a Debian with the packages ``base``, and ``packages``, what the roles may install.

    The root's only source of packages is /srv/packages, which is empty: who uses it puts the second folder there.
    """
    root = folder / "root"
    folder.mkdir()
    fetch = 'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -qq -y --download-only --no-install-recommends'
    hooks = (f"{fetch} install {' '.join(_repository(suite))}", f"{fetch} --reinstall install {' '.join(REPLACED)}")
    skip = "--skip=cleanup/apt/cache"  # the packages that the hook fetched
    run(
        "unshare", "--mount",  # what it mounts, no test that looks at the real machine is to see
        "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(base)}", skip,
        *(f"--customize-hook={hook}" for hook in hooks), suite, str(root), mirror(), timeout=900,
    )  # fmt: skip
    packages = root / "srv/packages"
    packages.mkdir(parents=True)
    index = []
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        control = run("dpkg-deb", "--field", str(package)).strip()
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        name = package.name.replace("%3a", "_")
        index.append(f"{control}\nFilename: ./{name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n")
        package.rename(packages / name)
    (packages / "Packages").write_text("\n".join(index))
    (root / "etc/apt/sources.list").write_text(SOURCES)
    for name in ("etc/apt/sources.list.d", "etc/apt/apt.conf.d"):
        for file in (root / name).glob("*mmdebstrap*"):
            file.unlink()
    run("chroot", str(root), "apt-get", "-qq", "update")
    packages.rename(folder / "packages")  # machines share it
    packages.mkdir()
    (root / "etc/hostname").write_text("machine\n")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(key().with_suffix(".pub"), root / "root/.ssh/authorized_keys")


# ---- a machine ----------------------------------------------------------------------------------------------------


class Machine:
    """One machine. All of it lies in ``folder``, but for its cgroups and its network namespace.

    The namespace has the machine's name. One that is there when it boots is taken, with the links in it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = CACHE / "machines" / name
        self.root = self.folder / "root"
        self.pidfile = self.folder / "pid"

    @property
    def pid(self) -> int:
        """The pid of its PID 1, seen from here."""
        return int(self.pidfile.read_text())

    @property
    def suite(self) -> str:
        """The Debian it was made from."""
        return (self.folder / "suite").read_text()

    def start(self, suite: str = SUITE, name: str = "bare") -> None:
        """Make it, boot it, and wait until systemd says that it runs."""
        self.stop()
        self.make(suite, name)
        self.power_on()

    def make(self, suite: str = SUITE, name: str = "bare") -> None:
        """Give it a fresh root; it is not booted.

        :param name: of the image.
        """
        self.folder.mkdir(parents=True)
        (self.folder / "suite").write_text(suite)
        run("cp", "--archive", "--reflink=auto", str(image(suite, name) / "root"), str(self.root), timeout=300)
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {self.name}\n")

    def power_on(self, seconds: float = 60, degraded: bool = False) -> None:
        """Boot it from its own root and wait until systemd says that it runs.

        :param degraded: whether a unit may have failed.
        """
        if not self._netns.exists():
            run("ip", "netns", "add", self.name)
        for group in self._cgroups():
            group.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):  # cgroup v1: a new cpuset is empty and takes no process
                if (group / name).exists():
                    (group / name).write_text((group.parent / name).read_text())
        log = (self.folder / "log").open("ab")
        process = subprocess.Popen(
            [sys.executable, __file__, "boot", self.name],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + seconds
        state = "no PID 1"
        while state not in ("running", "degraded"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"Waited {seconds} s for the machine {self.name} to run; its systemd says: {state}."
                    f" {(self.folder / 'log').read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.3)  # to ask takes a process
            if self.pidfile.exists():
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip() or "nothing"
        if state == "degraded" and not degraded:
            failed = self.run("systemctl", "--failed", "--plain", "--no-legend", check=False).stdout
            raise RuntimeError(f"The machine {self.name} came up with failed units:\n{failed}")

    def run(self, *argv: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root."""
        done = subprocess.run(self.argv(*argv), capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def argv(self, *argv: str) -> list[str]:
        """The command of the real machine that runs ``argv`` in this one."""
        return [sys.executable, __file__, "run", self.name, *argv]

    def feed(self, data: bytes, *argv: str) -> None:
        """Run a command in it, as root, that reads ``data``."""
        subprocess.run(self.argv(*argv), input=data, check=True, timeout=60, stdout=subprocess.DEVNULL)

    def install(self, *packages: str) -> None:
        """Install packages of Debian's in it; with an engine comes its client."""
        self.run("apt-get", "-qq", "update")
        self.run(*INSTALL, *with_split_off(self.suite, packages), timeout=300)

    def enter(self, argv: list[str]) -> None:
        """Become ``argv`` in the machine: its cgroups, its namespaces, a plain environment."""
        for group in self._cgroups():
            session = group / "lab"
            session.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (session / name).exists() and not (session / name).read_text().strip():
                    (session / name).write_text((group / name).read_text())
            (session / "cgroup.procs").write_text(str(os.getpid()))
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "SHELL": "/bin/sh",
        }  # fmt: skip
        inside = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        os.execvpe("nsenter", [*inside, "--", "env", "--chdir=/root", *argv], environment)

    def power_off(self) -> None:
        """Shut it down as its operator does; its root stays."""
        self.run("systemctl", "poweroff", check=False)
        deadline = time.monotonic() + 120
        while os.path.exists(f"/proc/{self.pid}"):
            if time.monotonic() > deadline:
                raise RuntimeError(f"Waited 120 s for the machine {self.name} to shut down.")
            time.sleep(0.1)
        self.cut_power()

    def cut_power(self) -> None:
        """End all its processes at once; its root stays. The real kernel goes on: what was written is not lost."""
        if self.pidfile.exists():
            # The end of PID 1 is the end of its PID namespace, and with it of every process and every mount in it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._remove_cgroups()
        self.pidfile.unlink(missing_ok=True)
        if self._netns.exists():
            run("ip", "netns", "delete", self.name)

    def stop(self) -> None:
        """End all its processes and remove all of it."""
        self.cut_power()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    @property
    def _netns(self) -> Path:
        return Path("/run/netns") / self.name

    def _remove_cgroups(self) -> None:
        deadline = time.monotonic() + 30
        for group in self._cgroups():
            while group.exists():
                left = [path for path, _folders, _files in os.walk(group, topdown=False)]
                try:
                    for path in left:
                        os.rmdir(path)
                except OSError as exc:  # busy until the last process is gone
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"Waited 30 s for {group} to be empty: {exc}") from exc
                    time.sleep(0.05)

    def _cgroups(self) -> list[Path]:
        """Its cgroup in each hierarchy of the real machine (one with cgroup v2)."""
        top = Path("/sys/fs/cgroup")
        if (top / "cgroup.controllers").exists():
            return [top / f"machine-{self.name}"]
        hierarchies = [path for path in top.iterdir() if path.is_dir() and not path.is_symlink()]
        return [path / f"machine-{self.name}" for path in hierarchies]

    # ---- its boot: runs in processes of its own -----------------------------------------------------------------

    def boot(self) -> None:
        """Make its namespaces and become the parent of its PID 1."""
        for group in self._cgroups():
            (group / "cgroup.procs").write_text(str(os.getpid()))
        os.execvp(
            "nsenter",
            ["nsenter", f"--net={self._netns}", "unshare", "--cgroup", "--mount", "--uts", "--ipc", "--pid", "--fork",
             "--kill-child", "--propagation", "private", sys.executable, __file__, "init", self.name],
        )  # fmt: skip

    def init(self) -> None:
        """As PID 1 of the new namespaces: make its root and become systemd."""
        root = str(self.root)
        _mount(root, root, "", "bind")  # pivot_root wants a mount point
        _mount(str(image(self.suite) / "packages"), f"{root}/srv/packages", "", "bind,ro")
        _mount("proc", f"{root}/proc", "proc", "nosuid,nodev,noexec")
        _mount(f"{root}/proc/sys", f"{root}/proc/sys", "", "bind")
        _mount(f"{root}/proc/sys/net", f"{root}/proc/sys/net", "", "bind")
        if _kernel() >= (6, 14):  # from then on each PID namespace has a kernel.pid_max of its own
            _mount(f"{root}/proc/sys/kernel/pid_max", f"{root}/proc/sys/kernel/pid_max", "", "bind")
        run("mount", "-n", "-o", "remount,bind,ro", f"{root}/proc/sys")
        _mount("sysfs", f"{root}/sys", "sysfs", "ro,nosuid,nodev,noexec")  # read-only: udev stays off
        self._mount_cgroups(root)
        for folder, options in (("run", "mode=755"), ("tmp", "mode=1777"), ("dev", "mode=755")):
            _mount("tmpfs", f"{root}/{folder}", "tmpfs", options)
        _make_devices(root)
        run("hostname", self.name)
        run("ip", "link", "set", "lo", "up")
        self.pidfile.write_text(_outer_pid())
        os.makedirs(f"{root}/run/old")
        os.chdir(root)
        run("pivot_root", ".", "run/old")
        os.chdir("/")
        run("umount", "--lazy", "/run/old")
        os.rmdir("/run/old")
        run("mount", "-n", "--make-rshared", "/")  # as systemd does on a real machine, where it mounts the root itself
        os.execve("/sbin/init", ["/sbin/init"], {"container": "lab"})

    def _mount_cgroups(self, root: str) -> None:
        top = f"{root}/sys/fs/cgroup"
        if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
            _mount("cgroup2", top, "cgroup2", "nosuid,nodev,noexec")
            return
        _mount("tmpfs", top, "tmpfs", "mode=755")
        for line in Path("/proc/mounts").read_text().splitlines():
            _source, point, kind, options = line.split()[:4]
            if kind not in ("cgroup", "cgroup2") or point.startswith(root):
                continue
            name = os.path.basename(point)
            os.mkdir(f"{top}/{name}")
            common = ("rw", "ro", "relatime", "nosuid", "nodev", "noexec")
            controllers = [word for word in options.split(",") if word not in common]
            _mount(kind, f"{top}/{name}", kind, ",".join(["rw", *controllers]))


def _mount(source: str, target: str, kind: str, options: str) -> None:
    # -n: no notes in /run/mount, which is still the real machine's.
    run("mount", "-n", *(("-t", kind) if kind else ()), "-o", options, source, target)


def _make_devices(root: str) -> None:
    os.umask(0)
    os.mkdir(f"{root}/dev/net")
    for name, major, minor in (
        ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0),
        ("console", 1, 3), ("fuse", 10, 229), ("autofs", 10, 235),
        ("net/tun", 10, 200),
    ):  # fmt: skip
        os.mknod(f"{root}/dev/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{root}/dev/{name}")
    _mount("devpts", f"{root}/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=620,gid=5")
    _mount("tmpfs", f"{root}/dev/shm", "tmpfs", "mode=1777")
    for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
                         ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):  # fmt: skip
        os.symlink(target, f"{root}/dev/{name}")
    os.umask(0o022)


def _kernel() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def _outer_pid() -> str:
    """This process's pid as the real machine sees it: /proc here is still the real machine's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[1]
    raise RuntimeError("the kernel tells no NSpid")


def main() -> None:
    """Entry point."""
    command, name, *rest = sys.argv[1:]
    machine = Machine(name)
    if command == "start":
        machine.start(*rest)
    elif command == "stop":
        machine.stop()
    elif command == "run":
        machine.enter(rest)
    elif command == "boot":
        machine.boot()
    elif command == "init":
        machine.init()
    else:
        sys.exit(f"{command}: expected start, stop or run")


if __name__ == "__main__":
    main()
