#!/usr/bin/env bash
# Takes the pictures of README: a simulated host, and the tools at work on it in
# a real terminal.
#
# usage: pictures.sh DIRECTORY-OF-PROGRAMS PYTHON DIRECTORY-OF-PICTURES
#
# PYTHON has the package rich, which draws the terminal.
set -euo pipefail
programs=$(cd "$1" && pwd)
python=$2
pictures=$(cd "$3" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
daemon=
export PATH=$programs:$PATH LC_ALL=C.UTF-8
unset NO_COLOR TMUX
terminal() { tmux -u -S "$root/tmux" "$@"; }
cleanup() {
    terminal kill-server 2> /dev/null || true
    [ -z "$daemon" ] || kill "$daemon" 2> /dev/null || true
    wait
    rm -rf "$root"
}
trap cleanup EXIT
host=$root/host
simhost init "$host" --vms 8
vminfod daemon --root "$host" --listen 127.0.0.1:0 > "$root/log" 2>&1 &
daemon=$!
server=
until [ -n "$server" ]; do
    kill -0 "$daemon" || { cat "$root/log"; exit 1; }
    sleep 0.1
    server=$(sed -n 's/.*listening on \([0-9.:]*\)".*/\1/p' "$root/log")
done
export VMINFOD_SERVER=$server

# Starts a command in a terminal of so many lines, and waits until its screen
# has a text.
shows() {
    terminal -f /dev/null new-session -d -x 116 -y "$1" "$2"
    await "$3"
}
await() {
    for _ in $(seq 600); do
        if terminal capture-pane -p | grep -q -- "$1"; then return; fi
        sleep 0.1
    done
    echo "the screen never showed $1:"
    terminal capture-pane -p
    exit 1
}
# Draws the screen.
draw() {
    terminal capture-pane -p -e > "$root/screen"
    "$python" "$here/pictures.py" "$2" < "$root/screen" > "$pictures/$1.svg"
    terminal kill-server
}
# Changes VMs: the second one gets this alias, quota and snapshot.
mapfile -t vms < <(simhost list "$host")
change() {
    simhost stop "$host" "${vms[0]}"
    simhost update "$host" "${vms[1]}" alias="$1" quota="$2"
    simhost start "$host" "${vms[0]}"
    simhost update "$host" "${vms[2]}" tags.role=web
    simhost snapshot "$host" "${vms[1]}" "$1"
}
shows 20 'vminfod events -r --path state,alias,quota,tags,snapshots' 'ready'
change db 40
await 'snapshots'
draw events 'vminfod events'
shows 22 'vminfod top' 'vm5'
change database 50
await 'snapshots'
draw top 'vminfod top'
