#!/bin/sh
# A tour: a simulated host, the daemon on it, and VMs that are created, changed
# and deleted while `vminfod events` prints the events. Everything is below one
# temporary directory, which is removed at the end. With DEMO=stay, the demo
# keeps running until Ctrl-C or Enter.
#
# usage: demo.sh DIRECTORY-OF-PROGRAMS VMS

set -eu
programs=$(cd "$1" && pwd)
vms=$2
root=$(mktemp -d "${TMPDIR:-/tmp}/vminfod-demo.XXXXXX")
vminfod=$programs/vminfod
simhost=$programs/simhost
daemon='' events=''

cleanup() {
	[ -z "$events" ] || kill "$events" 2>/dev/null || true
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$root"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
run() {
	printf '\033[2m$ simhost %s\033[0m\n' "$*"
	# simhost takes the operation, the root of the host, and the rest.
	op=$1
	shift
	"$simhost" "$op" "$root" "$@"
	# Time for the events of an operation to be printed below it.
	sleep 0.3
}

say "a simulated host with $vms VMs below $root"
"$simhost" init "$root" --vms "$vms"

say "the daemon; it answers once every VM is loaded"
"$vminfod" daemon --root "$root" --listen 127.0.0.1:0 >"$root/log" 2>&1 &
daemon=$!
server=
for _ in $(seq 100); do
	server=$(sed -n 's/.*listening on \([0-9.:]*\)".*/\1/p' "$root/log")
	[ -z "$server" ] || break
	kill -0 "$daemon" || { cat "$root/log"; exit 1; }
	sleep 0.1
done
[ -n "$server" ] || { cat "$root/log"; exit 1; }
grep -o 'loaded [0-9]* VMs in [0-9.]* ms' "$root/log"
"$vminfod" ping --server "$server"

say "events, as they happen"
"$vminfod" events --server "$server" -r &
events=$!
sleep 0.3

vm=$("$simhost" list "$root" | head -n 1)
new=$((vms + 100))
say "a new VM is created and booted"
run create "$new" lx
uuid=$("$simhost" list "$root" | tail -n 1)
say "updated"
run update "$uuid" alias=demo quota=40 cpu_cap=300
run update "$uuid" tags.role=web customer_metadata.greeting=hello
run update "$uuid" add_nic=90:b8:d0:11:22:33
say "snapshot, change, rollback"
run snapshot "$uuid" before
run update "$uuid" tags.role=db
run rollback "$uuid" before
say "halted and deleted"
run stop "$uuid"
run delete "$uuid"
say "a property of the pool is inherited by every VM; here are two of the events"
kill "$events"
wait "$events" 2>/dev/null || true
events=
"$vminfod" events --server "$server" >"$root/events" &
events=$!
sleep 0.3
run zfs set compression=gzip zones
head -n 2 "$root/events"
kill "$events"
wait "$events" 2>/dev/null || true
events=

say "/vms/$vm says, among other things"
"$vminfod" vm "$vm" --server "$server" |
    grep -E '^  "(alias|brand|state|zone_state|quota|pid|zfs_root_compression)"'
say "five of its VMs, as vmadm lists them; all of them as JSON; and its health"
"$vminfod" list -s uuid --server "$server" | head -n 6
"$vminfod" vms --server "$server" | grep -c '^    "zonename"'
"$vminfod" status --server "$server"
say "what differs between the daemon and the system: nothing"
"$vminfod" diagnose --root "$root" --server "$server"

if [ "$DEMO" = stay ]; then
	say "still running; try, from another terminal:"
	cat <<EOF
  $vminfod events --server $server
  $vminfod list --server $server
  $vminfod status --server $server
  curl http://$server/events
  $vminfod wait $vm state=stopped --server $server -- $simhost stop $root $vm
  $simhost update $root $vm alias=new
  tail -f $root/log
  (simhost, and vminfod help, list what they can do)
EOF
	say "press Enter or Ctrl-C to end the demo"
	read -r _ || true
fi
say "cleaned up"
