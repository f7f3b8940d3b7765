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
    mandoc:mandoc zsh:zsh; do
    command -v "${pair%%:*}" > /dev/null || missing+=("${pair#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    quietly_twice "${as_root[@]}" apt-get install --yes \
        --no-install-recommends "${missing[@]}"
fi
if ! command -v promtool > /dev/null && [ ! -x "$tools/promtool" ]; then
    mkdir -p "$tools"
    package=$(mktemp -d)
    trap 'rm -rf "$package"' EXIT
    (cd "$package" && quietly_twice apt-get download prometheus)
    dpkg-deb --fsys-tarfile "$package"/*.deb |
        tar --extract --to-stdout ./usr/bin/promtool > "$tools/promtool"
    chmod +x "$tools/promtool"
fi
