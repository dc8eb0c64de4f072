# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A volume group on the extra disk of a virtual machine: ``grid``, with ``home``, a volume of somebody else's, and
``pool``, a thin pool."""

from __future__ import annotations

#: For a shell. The programs that check a thin pool need not be on a host; LVM is told so.
MAKE = """set -e
printf 'global {\\n thin_check_executable = ""\\n thin_repair_executable = ""\\n}\\n' >/etc/lvm/lvmlocal.conf
vgcreate grid /dev/vdb
lvcreate --yes --size 100m --name home grid
lvcreate --yes --type thin-pool --size 3g --poolmetadatasize 8m --name pool grid
"""
