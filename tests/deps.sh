#!/usr/bin/env bash
# Installs what tests need besides Rust, gcc and make, on Debian, where it is
# not there: clients of HTTP, a terminal, shells, a checker of manual pages;
# and promtool into the given directory, since the package it is in would start
# a server on the port of the daemon.
set -euo pipefail
tools=$1
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

# A list of packages that was never read, or is old, finds nothing.
quietly_twice() {
    "$@" || { "${as_root[@]}" apt-get update && "$@"; }
}

missing=()
for pair in curl:curl node:nodejs python3:python3 wrk:wrk tmux:tmux \
    mandoc:mandoc zsh:zsh xmllint:libxml2-utils shellcheck:shellcheck \
    clang:clang bunyan:node-bunyan ksh93:ksh93u+m; do
    command -v "${pair%%:*}" > /dev/null || missing+=("${pair#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    quietly_twice "${as_root[@]}" apt-get install --yes \
        --no-install-recommends "${missing[@]}"
fi
# One program of a package that is not to be installed as a whole.
unpack() {
    local package=$1 path=$2 program=${2##*/}
    if command -v "$program" > /dev/null || [ -x "$tools/$program" ]; then
        return
    fi
    mkdir -p "$tools"
    local dir
    dir=$(mktemp -d)
    (cd "$dir" && quietly_twice apt-get download "$package")
    dpkg-deb --fsys-tarfile "$dir"/*.deb |
        tar --extract --to-stdout "./$path" > "$tools/$program"
    chmod +x "$tools/$program"
    rm -r "$dir"
}

unpack prometheus usr/bin/promtool
unpack nats-server usr/sbin/nats-server
