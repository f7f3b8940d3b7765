#!/usr/bin/env bash
# Installs, on Debian, programs that the tests need besides Rust, gcc and make:
# HTTP clients, a terminal, shells, checkers of manual pages and of scripts.
# promtool and nats-server are unpacked into DIRECTORY instead of installed,
# because their packages would start servers. vminfod-validator is a Python with
# a validator of OpenAPI, from PyPI.
#
# usage: programs.sh DIRECTORY [PROGRAM]...
#
# Without PROGRAM, it installs all that the tests need. What is there already is
# left alone. If something can't be installed, it says so and ends with 1; the
# tests that need it are then skipped.
set -euo pipefail
directory=$1
shift
programs=("$@")
[ $# -gt 0 ] || programs=(curl node python3 wrk tmux mandoc zsh xmllint
    shellcheck bunyan ksh93 ps patch promtool nats-server vminfod-validator)

# The package of a program and, if only the program is to be unpacked, its path.
package_of() {
    case $1 in
    node) echo nodejs ;;
    xmllint) echo libxml2-utils ;;
    bunyan) echo node-bunyan ;;
    ps) echo procps ;;
    ksh93) echo ksh93u+m ;;
    promtool) echo prometheus usr/bin/promtool ;;
    nats-server) echo nats-server usr/sbin/nats-server ;;
    vminfod-validator) echo python3-venv ;;
    *) echo "$1" ;;
    esac
}

has() {
    command -v "$1" > /dev/null || [ -x "$directory/$1" ]
}

missing=() packages=()
for program in "${programs[@]}"; do
    has "$program" || missing+=("$program")
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing what tests need (tests/programs.sh): ${missing[*]}"
mkdir -p "$directory"
log=$directory/log
: > "$log"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Runs an apt command. If it fails, it is run again with a new list of packages:
# one that was never read, or is old, has no package.
apt_command() {
    "$@" >> "$log" 2>&1 ||
        { as_root apt-get update >> "$log" 2>&1 && "$@" >> "$log" 2>&1; }
}
as_root() {
    if [ "$(id -u)" = 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}
install_packages() {
    apt_command as_root apt-get install --yes --no-install-recommends "$@"
}
download() (cd "$scratch" && apt-get download "$1")
# Unpacks one program of a package.
unpack() {
    apt_command download "$1" &&
        dpkg-deb --fsys-tarfile "$scratch/$1"_*.deb |
        tar --extract --to-stdout "./$2" > "$scratch/program" &&
        install "$scratch/program" "$directory/${2##*/}"
}
# shellcheck disable=SC2016 # for the script that it writes
install_validator() {
    python3 -m venv "$directory/python" &&
        "$directory/python/bin/pip" install openapi-spec-validator==0.7.1 &&
        printf '#!/bin/sh\nexec "$(dirname "$0")/python/bin/python3" "$@"\n' \
            > "$scratch/program" &&
        install "$scratch/program" "$directory/vminfod-validator"
}

for program in "${missing[@]}"; do
    read -r package path < <(package_of "$program")
    [ -n "$path" ] || packages+=("$package")
done
# If one of them can't be installed, the others still can.
if [ ${#packages[@]} -gt 0 ] && ! install_packages "${packages[@]}"; then
    for package in "${packages[@]}"; do
        install_packages "$package" || true
    done
fi
for program in "${missing[@]}"; do
    read -r package path < <(package_of "$program")
    [ -z "$path" ] || unpack "$package" "$path" >> "$log" 2>&1 || true
    [ "$program" != vminfod-validator ] || install_validator >> "$log" 2>&1 ||
        true
done

failed=()
for program in "${missing[@]}"; do
    has "$program" || failed+=("$program")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "can't install ${failed[*]} (see $log: it needs apt-get, the network, and root or sudo without a password); tests that need them are skipped"
    exit 1
fi
