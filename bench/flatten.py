# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long does flattening an image of 30 layers take, and what does it need? Needs root and dockerd.

Ways, alternately in one run, on an engine of the script's own:

export|import   ``docker export`` of a container piped to ``docker import``: loses the configuration
import          ``docker import`` of a tar that is ready: the engine's own share, below which nothing gets
docker-squash   from PyPI, in a virtual environment that is thrown away
flatten_image   the module of this collection, from the start of its process to its result

Prints the median of each, ratios, the peak memory of the client's processes, and the peak of disk space taken beyond
what is taken at the end. Run it from the checkout, in its environment: ``.venv/bin/python -m bench.flatten --help``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import typing as t
import venv
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.engine import Dockerd
from tests.lab.modules import start_module

LAYERS = 30
#: Classes of files: the largest size in bytes, and how many of a thousand belong to it. Counted in a Debian 12 server:
#: 10,500 files of 29 kB on average.
SIZES = (100, 1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000, 4_000_000)
SHARES = (36, 255, 305, 181, 158, 52, 10, 3)
SOURCE = "bench/source:30"
RESULT = "bench/result:1"
#: The tar that ``import`` takes.
READY = "ready.tar"


def size_of_a_file(choose: random.Random) -> int:
    """As likely in each octave of its class."""
    largest = choose.choices(range(len(SIZES)), SHARES)[0]
    smallest = SIZES[largest - 1] if largest else 1
    return round(math.exp(choose.uniform(math.log(smallest), math.log(SIZES[largest]))))


def make_image(engine: Dockerd, megabytes: int, folder: Path) -> None:
    """Load an image of 30 layers: sizes from 100 bytes to 4 MB, overwritten and deleted files, links, attributes."""
    choose = random.Random(30)  # noqa: S311 (the same image each time, not a secret)
    pool = choose.randbytes(8 << 20)
    names: list[str] = []
    made = 0
    digests = []
    archive_path = folder / "source.tar"
    with tarfile.open(archive_path, "w") as archive:
        for number in range(LAYERS):
            path = folder / "layer.tar"
            with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as layer:
                left = megabytes * 1_000_000 // LAYERS
                here: list[str] = []
                while left > 0:
                    size = min(left, size_of_a_file(choose))
                    left -= size
                    name = choose.choice(names) if names and choose.random() < 0.1 else ""
                    if not name or name in here:
                        made += 1
                        name = f"d{number % 7}/s{choose.randrange(20)}/f{made}"
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mode = size, choose.choice((0o644, 0o755, 0o4755, 0o600))
                    entry.uid, entry.mtime = choose.randrange(2000), 1_700_000_000 + number
                    if choose.random() < 0.05:
                        entry.pax_headers = {"SCHILY.xattr.user.origin": f"layer {number}"}
                    start = choose.randrange(len(pool) - size)
                    layer.addfile(entry, io.BytesIO(pool[start : start + size]))
                    here.append(name)
                    if choose.random() < 0.05:
                        link = tarfile.TarInfo(f"{name}.link{number}")
                        link.type, link.linkname, link.mode, link.uid = tarfile.LNKTYPE, name, entry.mode, entry.uid
                        link.mtime, link.pax_headers = entry.mtime, entry.pax_headers
                        layer.addfile(link)
                for gone in choose.sample(names, len(names) // 50):
                    if gone not in here:
                        layer.addfile(tarfile.TarInfo(f"{os.path.dirname(gone)}/.wh.{os.path.basename(gone)}"))
                        names.remove(gone)
                names += [name for name in here if name not in names]
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            digests.append(f"sha256:{digest.hexdigest()}")
            archive.add(path, f"{number}/layer.tar")
        config = {
            "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": digests},
            "history": [{"created_by": f"layer {number}"} for number in range(LAYERS)],
        }  # fmt: skip
        manifest = [
            {"Config": "c.json", "RepoTags": [SOURCE], "Layers": [f"{number}/layer.tar" for number in range(LAYERS)]}
        ]
        for name, value in (("c.json", config), ("manifest.json", manifest)):
            data = json.dumps(value).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    engine.docker("load", "--input", str(archive_path), timeout=1800)
    archive_path.unlink()
    path.unlink()


@dataclass
class Runs:
    """What was measured of one way."""

    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    disk: int = 0


class DiskWatch(threading.Thread):
    """Notes how low the free space of a file system gets."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self._over = folder, threading.Event()
        self.lowest = self.free()

    def free(self) -> int:
        disk = os.statvfs(self._folder)
        return disk.f_bfree * disk.f_frsize

    def run(self) -> None:
        while not self._over.wait(0.05):
            self.lowest = min(self.lowest, self.free())

    def stop(self) -> int:
        """Bytes that were taken at the peak and are not at the end."""
        self._over.set()
        self.join()
        return max(0, self.free() - self.lowest)


def wait_all(processes: t.Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for processes; the sum of their peak memories in bytes."""
    memory = 0
    for process in processes:
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors = process.stderr.read().decode() if process.stderr else ""
            raise RuntimeError(f"{process.args}: exit {process.returncode} {errors}")
        memory += usage.ru_maxrss * 1024
    return memory


def export_import(engine: Dockerd, _folder: Path) -> int:
    docker = ["docker", "--host", engine.url]
    export = subprocess.Popen([*docker, "export", "bench-source"], stdout=subprocess.PIPE)
    load = subprocess.Popen([*docker, "import", "-", RESULT], stdin=export.stdout, stdout=subprocess.DEVNULL)
    t.cast(t.IO[bytes], export.stdout).close()
    return wait_all([export, load])


def import_ready(engine: Dockerd, folder: Path) -> int:
    argv = ["docker", "--host", engine.url, "import", str(folder / READY), RESULT]
    return wait_all([subprocess.Popen(argv, stdout=subprocess.DEVNULL)])


def flatten_image(engine: Dockerd, _folder: Path) -> int:
    process = start_module("flatten_image", {"engine_url": engine.url, "source": SOURCE, "tag": RESULT})
    return wait_all([process])


def install_squash(folder: Path) -> Path | None:
    """docker-squash's program, or None if it cannot be installed."""
    venv.create(folder / "squash", with_pip=True)
    done = subprocess.run(
        [str(folder / "squash/bin/pip"), "install", "--quiet", "docker-squash", "setuptools"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode:
        print(f"docker-squash is skipped: {done.stderr.strip().splitlines()[-1]}")
        return None
    return folder / "squash/bin/docker-squash"


def docker_squash(program: Path) -> t.Callable[[Dockerd, Path], int]:
    def squash(engine: Dockerd, folder: Path) -> int:
        environment = {**os.environ, "DOCKER_HOST": engine.url, "TMPDIR": str(folder)}
        process = subprocess.Popen(
            [str(program), "--tag", RESULT, SOURCE], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        return wait_all([process])

    return squash


def measure(engine: Dockerd, folder: Path, megabytes: int, runs: int, squashes: int) -> None:
    make_image(engine, megabytes, folder)
    engine.docker("create", "--name", "bench-source", "--network", "none", SOURCE, "/bin/true")
    engine.docker("export", "--output", str(folder / READY), "bench-source", timeout=600)
    ways: dict[str, t.Callable[[Dockerd, Path], int]] = {
        "export|import": export_import,
        "import": import_ready,
        "flatten_image": flatten_image,
    }
    program = install_squash(folder) if squashes else None
    if program:
        ways["docker-squash"] = docker_squash(program)
    found = {name: Runs() for name in ways}
    for turn in range(runs):
        for name, way in ways.items():
            if name == "docker-squash" and turn >= squashes:
                continue
            os.sync()
            watch = DiskWatch(folder)
            watch.start()
            began = time.monotonic()
            memory = way(engine, folder)
            seconds = time.monotonic() - began
            found[name].disk = max(found[name].disk, watch.stop())
            found[name].seconds.append(seconds)
            found[name].memory = max(found[name].memory, memory)
            layers = engine.docker("image", "inspect", "--format", "{{len .RootFS.Layers}}", RESULT).stdout.strip()
            if layers != "1":
                raise RuntimeError(f"{name} made an image of {layers} layers")
            engine.docker("image", "rm", "--force", RESULT)
            print(f"  {name:14} {seconds:8.2f} s", flush=True)
    entries = subprocess.run(["tar", "-tf", str(folder / READY)], capture_output=True, check=True).stdout.count(b"\n")
    print(f"\n{megabytes} MB, {LAYERS} layers, {entries} files at the end; medians of {runs}")
    print(f"{'way':14} {'seconds':>8} {'peak memory':>12} {'extra disk':>11}  flatten_image takes")
    ours = statistics.median(found["flatten_image"].seconds)
    for name, result in found.items():
        median = statistics.median(result.seconds)
        ratio = "" if name == "flatten_image" else f"{ours / median:.3f} of it (1/{median / ours:.1f})"
        print(f"{name:14} {median:8.2f} {result.memory >> 20:9} MiB {result.disk >> 20:7} MiB  {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000], help="sizes of the image")
    parser.add_argument("--runs", type=int, default=5, help="of each way")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="for the engine's data, such as a tmpfs")
    parser.add_argument("--squashes", type=int, default=3, help="runs of docker-squash, which takes minutes; 0: none")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("The benchmark needs root: it starts an engine of its own.")
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-flatten-") as name:
            folder = Path(name)
            engine = Dockerd(folder / "engine", f"bench{os.getpid()}")
            try:
                engine.start()
                measure(engine, folder, megabytes, arguments.runs, arguments.squashes)
            finally:
                engine.remove()


if __name__ == "__main__":
    main()
