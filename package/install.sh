#!/bin/sh
# Lays out what the manifest lists below a directory, with its modes, and with
# its owners if root does it.
#
# usage: install.sh PROGRAM DESTDIR

set -eu
# Directories above what the manifest lists are for all to read.
umask 022
program=$1
destdir=$2
here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")

# Where the project has the file of this path.
source_of() {
	case $1 in
	usr/vm/sbin/vminfod) echo "$program" ;;
	etc/bash/bash_completion.d/*) echo "$top/completion/${1##*/}.bash" ;;
	usr/share/zsh/*) echo "$top/completion/${1##*/}" ;;
	usr/share/man/*) echo "$top/man/${1##*/}" ;;
	*) echo "$top/smf/${1##*/}" ;;
	esac
}

own() {
	[ "$(id -u)" -ne 0 ] || chown -h "$1" "$2"
}

mkdir -p "$destdir"
grep -v '^#' "$here/manifest" | while read -r kind path mode owner group; do
	case $kind in
	d)
		mkdir -p "$destdir/$path"
		chmod "$mode" "$destdir/$path"
		own "$owner:$group" "$destdir/$path"
		;;
	f)
		mkdir -p "$(dirname "$destdir/$path")"
		# By another name first: it may be running.
		cp "$(source_of "$path")" "$destdir/$path.new"
		chmod "$mode" "$destdir/$path.new"
		own "$owner:$group" "$destdir/$path.new"
		mv -f "$destdir/$path.new" "$destdir/$path"
		;;
	s)
		rm -f "$destdir/${path%%=*}"
		ln -s "${path#*=}" "$destdir/${path%%=*}"
		own root:bin "$destdir/${path%%=*}"
		;;
	*)
		echo "$here/manifest: $kind $path" >&2
		exit 1
		;;
	esac
done
