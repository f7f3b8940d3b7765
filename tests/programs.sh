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
    *) echo "$1" ;;
    esac
}

missing=() packages=() single=() validator=
for program in "${programs[@]}"; do
    if command -v "$program" > /dev/null || [ -x "$directory/$program" ]; then
        continue
    fi
    missing+=("$program")
    read -r package path < <(package_of "$program")
    if [ "$program" = vminfod-validator ]; then
        packages+=(python3-venv)
        validator=yes
    elif [ -n "$path" ]; then
        single+=("$package:$path")
    else
        packages+=("$package")
    fi
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing what tests need (tests/programs.sh): ${missing[*]}"

mkdir -p "$directory"
log=$directory/log
fail() {
    echo "can't install ${missing[*]}: $*; tests that need them are skipped"
    exit 1
}
command -v apt-get > /dev/null || fail "there is no apt-get"
as_root=(env DEBIAN_FRONTEND=noninteractive)
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2> "$log" || fail "this needs root, or sudo without a password"
    as_root=(sudo -n "${as_root[@]}")
fi
# A list of packages that was never read, or is old, finds no package.
twice() {
    "$@" >> "$log" 2>&1 ||
        { "${as_root[@]}" apt-get update >> "$log" 2>&1 &&
            "$@" >> "$log" 2>&1; } || fail "$(tail -n 1 "$log")"
}
: > "$log"
if [ ${#packages[@]} -gt 0 ]; then
    twice "${as_root[@]}" apt-get install --yes --no-install-recommends \
        "${packages[@]}"
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd_download() (cd "$scratch" && apt-get download "$1")
for one in "${single[@]}"; do
    path=${one#*:}
    twice cd_download "${one%%:*}"
    dpkg-deb --fsys-tarfile "$scratch/${one%%:*}"_*.deb |
        tar --extract --to-stdout "./$path" > "$scratch/program" ||
        fail "${one%%:*} has no $path"
    install "$scratch/program" "$directory/${path##*/}"
done
if [ -n "$validator" ]; then
    twice python3 -m venv "$directory/python"
    twice "$directory/python/bin/pip" install openapi-spec-validator==0.7.1
    # shellcheck disable=SC2016 # for the script that is written
    printf '#!/bin/sh\nexec "$(dirname "$0")/python/bin/python3" "$@"\n' \
        > "$directory/vminfod-validator"
    chmod +x "$directory/vminfod-validator"
fi
