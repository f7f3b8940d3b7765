#!/usr/bin/env bash
# Installs, on Debian, the programs that the tests need besides Rust, gcc and
# make, if they are missing: HTTP clients, a terminal, shells, a checker of
# manual pages. Single programs, such as promtool, are unpacked into the given
# directory instead: the package of promtool would start a server on the port of
# the daemon.
set -euo pipefail
tools=$1
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

# Tries twice: a list of packages that was never read, or is old, finds no
# package.
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
# Unpacks one program of a package, which is not installed as a whole.
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
