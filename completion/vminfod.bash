# Completion of vminfod and vminfo for bash: source it, or put it where bash's
# completions are. Names of VMs come from the daemon.

# What list can show; see vminfod(8).
_vminfod_fields='alias autoboot billing_id boot_timestamp brand cpu_cap
cpu_shares cpu_type create_timestamp dns_domain do_not_inventory docker
exit_status exit_timestamp firewall_enabled flexible_disk_size free_space
hostname hvm image_uuid indestructible_delegated indestructible_zoneroot
max_locked_memory max_lwps max_physical_memory max_swap owner_uuid package_name
package_version pid qemu_extra_opts quota ram state tmpfs type uuid vcpus
zfs_io_priority zone_state zoneid zonename zonepath zpool'

# The uuids that begin with $2, and that of the VM whose alias does; several
# such aliases, if there are several. Only what a shell reads as it is gets
# here, as tenants choose aliases: see "complete" in vminfod.
_vminfod_vms() {
    local uuid alias
    local -a uuids=() aliases=() named=()
    while read -r uuid alias; do
        [[ $uuid =~ ^[0-9a-fA-F-]{36}$ ]] || continue
        [[ $uuid == "$2"* ]] && uuids+=("$uuid")
        if [[ $alias == "$2"* && $alias =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]]; then
            aliases+=("$alias") named+=("$uuid")
        fi
    done < <("$1" complete "${_vminfod_server[@]}" --time-limit 2 2>/dev/null)
    if ((${#uuids[@]})); then
        COMPREPLY=("${uuids[@]}")
    elif ((${#named[@]} == 1)); then
        COMPREPLY=("${named[0]}")
    else
        COMPREPLY=("${aliases[@]}")
    fi
}

# The last of a list joined by commas.
_vminfod_list() {
    local before=
    [[ $2 == *,* ]] && before=${2%,*},
    COMPREPLY=($(compgen -P "$before" -W "$1" -- "${2##*,}"))
}

_vminfod() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local verb=${COMP_WORDS[1]} i operands=0 options= program=$1
    local -a _vminfod_server=()
    COMPREPLY=()
    local verbs='ping status vms vm events help --version'
    [[ ${1##*/} == vminfo ]] || verbs+=' list lookup get json wait top
        diagnose check compare daemon dump settings schema'
    if ((COMP_CWORD == 1)) || [[ $COMP_CWORD:$verb == 2:help ]]; then
        COMPREPLY=($(compgen -W "$verbs" -- "$cur"))
        return
    fi
    # The words before this one: where the daemon is, and how many operands.
    for ((i = 2; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --server)
            _vminfod_server=(--server "${COMP_WORDS[i + 1]}")
            # Readline takes a colon, and what is around it, for words.
            [[ ${COMP_WORDS[i + 2]} == : ]] &&
                _vminfod_server=(--server
                    "${COMP_WORDS[i + 1]}:${COMP_WORDS[i + 3]}")
            ;;
        --)
            if [[ $verb == wait ]]; then
                # A command, and then whatever it takes.
                local what=-f
                ((i + 1 == COMP_CWORD)) && what=-c
                COMPREPLY=($(compgen "$what" -- "$cur"))
                return
            fi
            ;;
        -* | : | =) ;;
        *)
            [[ ${COMP_WORDS[i - 1]} == [-:=]* ]] || ((operands++))
            ;;
        esac
    done
    case $verb:$prev in
    list:-o | list:-s | list:--order | list:--sortby | lookup:-o | lookup:--output)
        _vminfod_list "$_vminfod_fields" "$cur"
        return
        ;;
    events:--type)
        _vminfod_list 'create modify delete' "$cur"
        return
        ;;
    events:--uuid)
        _vminfod_vms "$program" "$cur"
        return
        ;;
    *:--root | *:--scratch)
        COMPREPLY=($(compgen -d -- "$cur"))
        return
        ;;
    *:--settings | *:--report | settings:settings)
        COMPREPLY=($(compgen -f -- "$cur"))
        return
        ;;
    daemon:--log-level)
        COMPREPLY=($(compgen -W 'error warn info debug trace' -- "$cur"))
        return
        ;;
    esac
    case $verb in
    list) options='-p -H -h -o -s' ;;
    lookup) options='-j -1 -o' ;;
    get | json) options='--sync --timeout' ;;
    events) options='-f -j -r --short --uuid --path --type --since --retry' ;;
    wait) options='--gone --since --timeout --' ;;
    status) options='-f -j' ;;
    diagnose) options='-j --root' ;;
    check) options='-j -v --root --against --scratch --set --report' ;;
    compare) options='-j --for --settle' ;;
    dump) options='--root' ;;
    daemon)
        options='--root --listen --socket --allow-remote --allow-host
            --refresh-interval --command-timeout --set --settings
            --log-level --check'
        ;;
    esac
    case $verb in
    daemon | dump | settings | schema | check | help) ;;
    compare) options+=' --time-limit' ;;
    *) options+=' --server --time-limit' ;;
    esac
    options+=' --help'
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
        return
    fi
    case $verb:$operands in
    get:0 | json:0 | vm:0 | events:0 | wait:0)
        _vminfod_vms "$program" "$cur"
        ;;
    list:* | lookup:* | wait:*)
        if [[ $prev != = && $cur != = ]]; then
            COMPREPLY=($(compgen -S = -W "$_vminfod_fields" -- "$cur"))
            compopt -o nospace
        fi
        ;;
    esac
}

complete -F _vminfod vminfod vminfo
