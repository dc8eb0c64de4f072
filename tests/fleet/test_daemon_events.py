# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""With live restore no VO-box, and nobody on its LAN, notices what happens to the daemon; and its log has a budget.

The modules run over SSH, on hosts where systemd runs Debian's docker.io.
"""

from __future__ import annotations

import os
import typing as t

import pytest

from tests.lab.daemon_events import EVENTS, MAKE_NEWER, UPGRADED, Event, EventHost, identity, vobox
from tests.lab.fleet import Fleet
from tests.lab.modules_over_ssh import Call
from tests.lab.probe import Reach

pytestmark = pytest.mark.fleet

#: Bytes of a line of a VO-box's log.
LINE = 100
#: How long the daemon of a VO-box that floods its log is away: longer than its budget.
AWAY_SECONDS = 5


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[EventHost]:
    """A host with live restore and a VO-box that writes 20 lines a second."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces and cgroups")
    name = f"gbt{os.getpid()}-events"
    try:
        yield EventHost.make(name, tmp_path_factory.mktemp("play"), request.param)
    finally:
        Fleet(name).stop()


@pytest.fixture(scope="module")
def budget(host: EventHost) -> dict[str, t.Any]:
    """What live_restore announces for the VO-box when it is switched on."""
    [done] = host.call(Call("live_restore", {"budget_window": 3}))
    assert done["enabled"]
    [announced] = done["outage_budget"]
    return t.cast("dict[str, t.Any]", announced)


def reach(host: EventHost, number: int = 1) -> Reach:
    """The peer's probe, every 100 ms. A frame that is lost is a failed attempt; a machine that is slow is none."""
    return Reach(host.fleet.peer, identity(number), interval=0.1, patience=0.9)


@pytest.mark.parametrize("name", [*EVENTS, "docker.io upgraded, restarted"])
def test_nobody_notices(host: EventHost, budget: dict[str, t.Any], name: str) -> None:
    event = EVENTS.get(name, UPGRADED)
    if event is UPGRADED:
        old, new = host.shell(MAKE_NEWER).split()
        assert old.split(".")[:2] == new.split(".")[:2] and old != new, "not of the same minor version"
    before = host.container()
    with reach(host) as peer:
        happened = host.happen(event)
    assert peer.attempts > 10
    assert peer.outages == {address: [] for address in identity().addresses}
    assert host.container() == before
    written = host.lines_written()  # by docker exec
    lines = host.lines_logged(written)
    assert lines == list(range(1, len(lines) + 1))
    # As announced: the daemon was back before the log's pipes were full.
    assert happened.seconds < budget["seconds"]


def test_a_flood_is_held_as_announced_and_nothing_of_it_is_lost(host: EventHost, budget: dict[str, t.Any]) -> None:
    """Away for longer than the budget: the pipes hold what was announced, and what writes more waits."""
    info: dict[str, t.Any]
    _made, info = host.call(
        Call("vobox_container", vobox(2, pause=0.0005)), Call("live_restore_info", {"budget_window": 3})
    )
    flood = next(entry for entry in info["outage_budget"] if entry["container"] == "vobox2")
    assert flood["seconds"] < AWAY_SECONDS < budget["seconds"]
    before = host.container("vobox2")
    log = host.shell("docker inspect --format '{{.LogPath}}' vobox2").strip()
    count = f"cat /proc/{before.split()[0]}/root/tmp/n"
    away = Event(
        f"systemctl stop docker.socket docker.service; grep -c . {log}; sleep {AWAY_SECONDS}; {count};"
        f" sleep 1; {count}; systemctl start docker.service",
        frozenset({"daemon"}),
    )
    with reach(host, 2) as peer:
        happened = host.happen(away)
        host.happen(EVENTS["killed"])
    taken, accepted, accepted_later = (int(number) for number in happened.printed.split())
    assert accepted == accepted_later  # it waits
    # What was at stake is what was announced; the kernel keeps lines in pages, so a little less fits.
    at_stake = (accepted - taken) * LINE
    assert 0.9 * flood["capacity"] < at_stake <= flood["capacity"]
    assert peer.outages == {address: [] for address in identity(2).addresses}  # its service does not wait for its log
    assert host.container("vobox2") == before
    written = host.lines_written("vobox2")
    lines = host.lines_logged(written, "vobox2")
    assert lines == list(range(1, len(lines) + 1))
