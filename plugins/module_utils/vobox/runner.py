# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two small programs that run an init script inside a VO-box, as text; ``docs/init-script.md`` is their contract.

They are POSIX shell because a shell is the one program that every image with an init script has.
"""

from __future__ import annotations

#: Where the container sees the folder of the init script, read-only, and the folder of its state.
INIT_FOLDER = "/etc/hep.gridbox"
STATE_FOLDER = "/run/hep.gridbox"

#: The static reference of images and people. Bind-mounted as a file, so its text must never change: the mount holds on
#: to the file it was made with.
START_PATH = "/etc/init.sh"
START = f"""#!/bin/sh
exec /bin/sh {INIT_FOLDER}/runner "$@"
"""

#: Runs as the only child of the engine's init, which is PID 1, reaps orphans and passes signals on.
#: HUP restarts everything with the script that is current by then; TERM ends everything.
RUNNER = rf"""init={INIT_FOLDER} state={STATE_FOLDER}/state
restart= end=
trap 'restart=1' HUP
trap 'end=1' TERM INT QUIT

tell() {{ echo "$version $*" > "$state"; }}

# Is a process alive beside PID 1 and this shell? Uses nothing that an image might lack.
others() {{
    for process in /proc/[0-9]*; do
        case ${{process#/proc/}} in 1 | $$) continue ;; esac
        while read -r key value rest; do
            [ "$key" = State: ] || continue
            [ "$value" = Z ] || return 0
            break
        done 2> /dev/null < "$process/status"
    done
    return 1
}}

nap() {{ sleep 0.1 2> /dev/null || sleep 1; }}

end_others() {{
    tell stopping
    kill -TERM -1 2> /dev/null
    left=100
    while others; do
        # At the end of the container the engine's own time-out decides.
        if [ -z "$end" ]; then
            left=$((left - 1))
            [ "$left" -eq 0 ] && kill -KILL -1 2> /dev/null
            [ "$left" -le -50 ] && break
        fi
        nap
    done
}}

while :; do
    version=$(cd -P "$init/current" && pwd -P) || exit 127
    version=${{version##*/}}
    restart=
    cd /
    tell running
    "$init/versions/$version/init.sh" &
    script=$!
    while [ -z "$restart$end" ]; do
        if [ -n "$script" ]; then
            wait "$script"
            status=$?
            [ -n "$restart$end" ] && break
            script=
            if [ "$status" -ne 0 ]; then
                tell failed "$status"
                exit "$status"
            fi
            tell done
        else
            # Asleep; a signal ends the wait.
            sleep 3600 &
            wait $!
        fi
    done
    end_others
    if [ -n "$end" ]; then
        tell stopped
        exit 0
    fi
done
"""
