# Stands in for the platform's smf_include.sh: it has what the method uses, with
# the values of smf_method(7).
SMF_EXIT_OK=0
SMF_EXIT_ERR_CONFIG=96
export SMF_EXIT_OK SMF_EXIT_ERR_CONFIG

# smf_kill_contract CONTRACT SIGNAL WAIT TIMEOUT: a process stands in for the
# contract.
smf_kill_contract() {
	kill "-$2" "$1" 2>/dev/null || return 0
	[ "${3:-0}" -ne 0 ] || return 0
	waited=0
	# A process that its parent has not reaped yet (a zombie) has ended.
	while sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | grep -q '^[^Z]'; do
		[ "$waited" -lt "$4" ] || return 2
		sleep 1
		waited=$((waited + 1))
	done
}

smf_clear_env() {
	unset SMF_FMRI SMF_METHOD SMF_RESTARTER SMF_ZONENAME
}
