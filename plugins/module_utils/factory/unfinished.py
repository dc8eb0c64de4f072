# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory's process that was killed had not finished to write.

Each file is written through a neighbour that takes its place. Those in machines' folders and of the pipes' copies, and
that of a record of the accounting that is written anew, are looked for where they are written.
"""

from __future__ import annotations

import contextlib
import os

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import accounting, chosen_engine, orders
from ansible_collections.hep.gridbox.plugins.module_utils.factory import report as reports
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import FILE as PULLED_IMAGES
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import remove_neighbours

#: In the state folder; only who has the factory's lock writes them.
_FILES = (reports.NAME, PULLED_IMAGES, chosen_engine.NAME, accounting.SYNCED)


def remove(configuration: Configuration) -> None:
    """Remove it. For who has the factory's lock (``store.at_work``), before he writes anything.

    What cannot be removed stays: where a file cannot be written either, its writer tells.
    """
    folder = configuration.state_folder
    metrics = {configuration.metrics_file}
    with contextlib.suppress(GridboxError):  # a report that is damaged is about to be replaced
        last = reports.load(folder)
        metrics.add(last.metrics_file if last is not None else "")
    for path in (*(os.path.join(folder, name) for name in _FILES), *filter(None, sorted(metrics))):
        with contextlib.suppress(OSError):
            remove_neighbours(path)
    with contextlib.suppress(OSError):
        accounting.remove_unfinished(folder)
    with contextlib.suppress(OSError, GridboxError):
        orders.remove_unfinished(folder)
    Store(folder).forget_unborn()
