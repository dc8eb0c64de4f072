# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How fast does a factory answer VacQuery, and how long does it take to ask a space of a thousand?

Requests, one after the other, of each message type, plain and signed, to a responder in a process of its own with eight
slots and three machinetypes, as Vac was measured with: milliseconds from sending a request to its last reply, and how
many were not answered within two seconds. The responder has the limits of every factory, so the requests come in turn
from 64 addresses, as from a space: one address alone would soon have asked more than it may.

Then polls of 1,000 factories with 20 machinetypes each, all in one process: one in ten is dead, half of these silent
and half refusing. The others have been asked before: their replies are made. The first poll of each pair knows nothing
of them, the second knows who was silent. The same again with the buffer that Linux gives who has no right to a wide
one, which only root gets. Last, five polls of those that live by a process that has in memory what the daemon has, and
what they take of it. All on the loopback, over IPv4. Run it from the checkout, in its environment:
``.venv/bin/python -m bench.vacuum_query --help``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import multiprocessing
import os
import socket
import statistics
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import udp
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import Access
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import dump
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    QUERIES,
    FactoryStatus,
    MachineStatus,
    MachinetypeStatus,
    Request,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import ANSWERED, Result, poll
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Responder, Snapshot
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import Guard, Key

SPACE = "vac01.example.com"
KEY = Key(b"0123456789abcdef" * 4)
SLOTS, TYPES, POLLED_TYPES = 8, 3, 20
ASKERS = 64

#: Bytes of a socket's buffer that Linux gives everybody (net.core.rmem_max).
NARROW = 212992

#: A factory of the poll has an address of its own; all have the same port.
FIRST = int(ipaddress.ip_address("127.64.0.1"))


def snapshot(number: int, slots: int, types: int) -> Snapshot:
    """A factory with something in each field, so that datagrams have the size of real ones."""
    factory, now = f"factory{number}.example.com", int(time.time())
    machines = tuple(
        MachineStatus(
            f"factory{number}-{slot:02d}.example.com", "Running", "exp-dc-prod", f"{slot:064x}",
            now - 900, now - 890, now, 800, 97.5, 10.0, machine_model="docker", num_processors=1,
            fqan="/exp/Role=production",
        )
        for slot in range(slots)
    )  # fmt: skip
    machinetypes = tuple(
        MachinetypeStatus(
            f"exp{kind}-dc-prod", 20.0, 1, "200 Success", now - 900, f"factory{number}-00.example.com", 2, 2, 2 << 30,
            86400, 8, "/exp/Role=production",
        )
        for kind in range(types)
    )  # fmt: skip
    status = FactoryStatus(os_issue="Example Linux 1", kernel_version="5.0.0-example", boot_time=now - 10**6)
    return Snapshot(SPACE, factory, "EXAMPLE", "hep.gridbox", status, machinetypes, machines)


def responder(number: int, slots: int, types: int, address: str, port: int) -> tuple[Responder, int]:
    made = Responder(Access(), Guard(KEY, f"factory{number}.example.com", required=False))
    made.snapshot = snapshot(number, slots, types)
    return made, made.open(port, address, None)


def serve(tell: t.Callable[[int], object], count: int, slots: int, types: int) -> None:
    """Be that many factories, each at an address of its own, until the process is ended. Tells their port."""

    async def run() -> None:
        port = 0
        for number in range(count):
            made, port = responder(number, slots, types, address_of(number), port)
            # A factory that was asked before has its replies at hand. Those of a space make them all at once, each on a
            # host of its own; here one process would make them one after the other.
            for query in QUERIES:
                made.answer(dump(Request(query, SPACE, "").as_data()), "127.0.0.1")
            made.attach(asyncio.get_running_loop())
        tell(port)
        await asyncio.Event().wait()

    asyncio.run(run())


@contextlib.contextmanager
def factories(count: int, slots: int, types: int) -> t.Iterator[int]:
    """A process with factories; gives their port."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs.send, count, slots, types), daemon=True)
    process.start()
    try:
        if not ours.poll(60):
            raise RuntimeError(f"{count} factories were not there after 60 s")
        yield ours.recv()
    finally:
        process.terminate()
        process.join(timeout=10)


def address_of(number: int) -> str:
    return str(ipaddress.ip_address(FIRST + number))


def sequential(port: int, message_type: str, requests: int, signed: bool) -> tuple[list[float], int]:
    """Milliseconds of each request, and how many were lost."""
    replies = {"factory_query": 1, "machines_query": SLOTS, "machinetypes_query": TYPES}[message_type]
    times, lost = [], 0
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _asker in range(ASKERS)]
        for number, client in enumerate(clients):
            client.bind((f"127.32.0.{number + 1}", 0))
            client.connect((address_of(0), port))
            client.settimeout(2)
        for number in range(requests):
            client = clients[number % ASKERS]
            request = dump(Request(message_type, SPACE, f"{number:064x}").as_data())
            began = time.perf_counter()
            client.send(KEY.sign(request, time.time(), "factory0.example.com") if signed else request)
            try:
                for _turn in range(replies):
                    client.recv(65536)
            except TimeoutError:
                lost += 1
                continue
            times.append((time.perf_counter() - began) * 1000)
    return times, lost


async def polls(port: int, count: int, dead: int) -> list[tuple[Result, float, float]]:
    """Two polls, with the seconds and the processor's seconds that each took. The dead are the last factories."""
    with contextlib.ExitStack() as stack:
        peers = [Peer(f"factory{number}.example.com", address_of(number), port) for number in range(count - dead)]
        for number in range(count - dead, count):
            bound = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            bound.bind((address_of(number), 0))
            peers.append(Peer(f"factory{number}.example.com", address_of(number), bound.getsockname()[1]))
            if number % 2:
                bound.close()  # nobody listens there; the others are bound, and say nothing
        resolver, results = Resolver(), []
        silent_since: dict[str, float] = {}
        for _turn in range(2):
            began, spent = time.perf_counter(), time.process_time()
            result = await poll("machinetypes_query", SPACE, peers, resolver, silent_since=silent_since)
            results.append((result, time.perf_counter() - began, time.process_time() - spent))
            silent_since = result.silent_since
        return results


def as_the_daemon(port: int, count: int) -> None:
    """Poll five times and sum up as the daemon does, with all in memory that it has; print what that takes."""
    from ansible_collections.hep.gridbox.plugins.module_utils.factory import daemon, space
    from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import Space, of_space
    from bench.vacuum_daemon import memory

    peers = [Peer(f"factory{number}.example.com", address_of(number), port) for number in range(count)]
    resolver, summed, result = Resolver(), Space(), None
    print(f"{daemon.__name__.rpartition('.')[2]} imported: {memory(os.getpid())['VmRSS']:.1f} MiB resident")
    for number in range(5):
        began, answers = time.process_time(), space.Usages()
        result = asyncio.run(
            poll(
                "machinetypes_query", SPACE, peers, resolver, heard=answers.add,
                silent_since=result.silent_since if result is not None else None,
            )
        )  # fmt: skip
        summed = of_space(answers, "own.example.com", int(time.time()), summed.aborts)
        taken, spent = memory(os.getpid()), time.process_time() - began
        print(
            f"poll {number + 1}: {summed.others} of {count} heard, processor {spent:.2f} s,"
            f" {taken['VmRSS']:.1f} MiB resident, {taken['VmHWM']:.1f} at most",
            flush=True,
        )


def show_polls(pairs: t.Sequence[t.Sequence[tuple[Result, float, float]]], count: int, living: int) -> None:
    """Print what came of pairs of polls."""
    print(
        f"{'poll of':<10}{'':<8}{'s, median':>10}{'worst':>7}{'processor':>11}{'last answer':>13}{'heard, least':>14}"
    )
    for which, taken in (("first", [pair[0] for pair in pairs]), ("second", [pair[1] for pair in pairs])):
        answers = [
            [one.seconds or 0.0 for one in result.outcomes.values() if one.state == ANSWERED]
            for result, _took, _spent in taken
        ]
        took = [seconds for _result, seconds, _spent in taken]
        spent = statistics.median(seconds for _result, _took, seconds in taken)
        last = statistics.median(max(seconds, default=0.0) for seconds in answers)
        print(
            f"{count:<10}{which:<8}{statistics.median(took):>10.2f}{max(took):>7.2f}{spent:>11.2f}{last:>13.2f}"
            f"{min(map(len, answers)):>9} of {living}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="of each kind")
    parser.add_argument("--factories", type=int, default=1000, help="of the poll")
    parser.add_argument("--dead", type=int, default=100, help="of these")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of polls")
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    print(f"{'requests':<22}{'signed':>8}{'number':>9}{'lost':>6}{'median ms':>11}{'p99 ms':>9}")
    with factories(1, SLOTS, TYPES) as port:
        for message_type in QUERIES:
            for signed in (False, True):
                times, lost = sequential(port, message_type, arguments.requests, signed)
                p99 = statistics.quantiles(times, n=100)[98]
                shown = f"{message_type:<22}{'yes' if signed else 'no':>8}{arguments.requests:>9}{lost:>6}"
                print(f"{shown}{statistics.median(times):>11.2f}{p99:>9.2f}", flush=True)
    living = arguments.factories - arguments.dead
    with factories(living, 0, POLLED_TYPES) as port:
        for buffer in (udp.BUFFER, NARROW):
            udp.BUFFER = buffer
            with contextlib.closing(udp.open_socket(socket.AF_INET, "127.0.0.1", 0)) as opened:
                print(f"room for {udp.room(opened)} answers in a socket's buffer")
            pairs = [
                asyncio.run(polls(port, arguments.factories, arguments.dead)) for _round in range(arguments.rounds)
            ]
            show_polls(pairs, arguments.factories, living)
        asker = multiprocessing.get_context("spawn").Process(target=as_the_daemon, args=(port, living))
        asker.start()
        asker.join()
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
