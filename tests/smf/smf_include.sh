# Stands in for the platform's smf_include.sh: what the method uses of it, with
# the values of smf_method(7).
SMF_EXIT_OK=0
SMF_EXIT_ERR_FATAL=95
SMF_EXIT_ERR_CONFIG=96
export SMF_EXIT_OK SMF_EXIT_ERR_FATAL SMF_EXIT_ERR_CONFIG

smf_clear_env() {
	unset SMF_FMRI SMF_METHOD SMF_RESTARTER SMF_ZONENAME
}
