# shellcheck shell=sh
# What the hostmaster gives a guest before `go`, and how it is put in place. Sourced by the agent.
# Every on_* function may be called again with the same words: it then changes nothing.
ETC=${WNOD_ETC:-/etc}
KERNEL_CALLS=$LIB/kernel-calls

# prepare: what needs no word from the hostmaster, done while its first words are on their way.
prepare() {
    [ -z "${WNOD_TEST:-}" ] || return 0
    echo "$node_name" >/proc/sys/kernel/hostname
    load_module virtio_net
    ip link set lo up
}

# load_module NAME: with those it needs, in the order the image lists them. A kernel that has it
# built in has no list.
load_module() {
    [ -e "$LIB/modules/$1.order" ] && [ ! -e "$RUN/loaded.$1" ] || return 0
    : >"$RUN/loaded.$1"
    while read -r module; do
        insmod "$LIB/modules/$module"
    done <"$LIB/modules/$1.order"
}

# --- single values ------------------------------------------------------------------------

# A key that is not known is a newer hostmaster's and does no harm; a known one that cannot be taken does.
on_set() {
    case $1 in
    address | gateway | dns | lrms | controller | features | cpus | memory_mib | disk_mib) ;;
    *) return 1 ;;
    esac
    percent_decode "$2" && is_plain "$decoded" && keep_setting "$1" || untaken set "$@"
}

keep_setting() {
    # A network that was set up at standby is set up again if it is to be another.
    case $1=$decoded in
    "address=${given_address:-}" | "gateway=${given_gateway:-}" | "dns=${given_dns:-}") ;;
    address=* | gateway=* | dns=*) prepared=no ;;
    esac
    case $1 in
    address) given_address=$decoded ;;
    gateway) given_gateway=$decoded ;;
    dns) given_dns=$decoded ;;
    lrms) given_lrms=$decoded ;;
    controller) given_controller=$decoded ;;
    features) given_features=$decoded ;;
    cpus) is_number "$decoded" && given_cpus=$decoded ;;
    memory_mib) is_number "$decoded" && given_memory_mib=$decoded ;;
    disk_mib) is_number "$decoded" && given_disk_mib=$decoded ;;
    esac
}

on_host() {
    is_plain "$1" && is_name "$2" || return 1
    case ${given_hosts:-} in *"$1 $2
"*) return 0 ;; esac
    given_hosts="${given_hosts:-}$1 $2
"
    case $state in waiting | standby) hosts_are_due=yes ;; *) write_hosts ;; esac
}

write_hosts() {
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n%s' "$node_name" "${given_hosts:-}" >"$ETC/hosts"
}

# --- clock and randomness -----------------------------------------------------------------

# The clock of a restored guest is old, and a credential of the LRMS then looks expired.
set_clock() {
    is_number "${1%%.*}" && is_number "${1#*.}" || return 1
    "$KERNEL_CALLS" clock "$1" 2>/dev/null || "${WNOD_DATE:-date}" -s "@${1%%.*}" >/dev/null || return 1
    read -r given_at _ </proc/uptime
    given_time=$1
}

# centi WORD: a decimal number's hundredths in $centi; the 1 keeps 08 from being octal.
centi() {
    _part=${1#*.}00
    [ "$1" != "${1#*.}" ] || _part=00
    centi=$((${1%%.*} * 100 + 1${_part%"${_part#??}"} - 100))
}

# clock_is_right: within a second of what was given and what has passed since. Without fractions of a
# second from the shell, `date` cuts up to one off, which is forgiven.
clock_is_right() {
    now=${EPOCHREALTIME:-$(date +%s)}
    read -r up _ </proc/uptime
    centi "$now" && is=$centi
    centi "$given_time" && given=$centi
    centi "$up" && passed=$centi
    centi "$given_at" && off=$((is - given - passed + centi))
    least=-100
    [ "$now" != "${now%.*}" ] || least=-200
    [ "$off" -le 100 ] && [ "$off" -ge "$least" ]
}

# A guest that booted by itself may trust its own clock; one that was paused or copied must be told.
check_clock() {
    if [ -z "$given_time" ]; then
        [ "$copied" = no ] || fail clock "no time was given after standby"
    else
        clock_is_right || fail clock "the clock says $now, which is $off hundredths of a second off"
    fi
}

# on_seed BASE64: into the kernel's pool, and then the generator must start anew from it: copies of one
# saved guest would go on with the same numbers for a minute. Never an argument of a program.
on_seed() {
    case $1 in *[!A-Za-z0-9+/=]*) return 1 ;; esac
    [ "${#1}" -ge 44 ] && [ "${#1}" -le 88 ] || return 1
    [ "$1" != "$seed_seen" ] || return 0
    if ! restart_generator "$1"; then
        say "the kernel's generator cannot be told to start anew: the seed is only mixed in"
        printf '%s' "$1" | base64 -d >>"${WNOD_RANDOM:-/dev/urandom}" || return 1
    fi
    seed_seen=$1 seeded=yes
}

restart_generator() {
    [ -x "$KERNEL_CALLS" ] || return 1
    "$KERNEL_CALLS" seed "${WNOD_RANDOM:-/dev/urandom}" <<EOT
$1
EOT
}

# --- accounts -----------------------------------------------------------------------------

# known FILE NAME ID: 0 when exactly this entry exists, 1 when neither name nor id does,
# 2 when one of them belongs to something else.
known() {
    while IFS=: read -r has_name _ has_id _; do
        [ "$has_name" = "$2" ] && [ "$has_id" = "$3" ] && return 0
        [ "$has_name" = "$2" ] && return 2
        [ "$has_id" = "$3" ] && return 2
    done <"$1"
    return 1
}

# add_entry FILE NAME ID LINE: root's name and id always exist, so they can never be given away.
add_entry() {
    known "$1" "$2" "$3"
    case $? in
    0) return 0 ;;
    1) printf '%s\n' "$4" >>"$1" ;;
    *) return 1 ;;
    esac
}

on_account() {
    percent_decode "$1" || return 1
    IFS=: read -r name password uid gid _ home shell <<EOT
$decoded
EOT
    case $name in */*) return 1 ;; esac
    is_plain "$name" && is_number "$uid" && is_number "$gid" && [ "$password" = x ] || return 1
    # Leading zeros would be another spelling of root's id.
    uid=$((${uid#"${uid%%[!0]*}"} + 0)) gid=$((${gid#"${gid%%[!0]*}"} + 0))
    [ "$uid" -gt 0 ] && [ "$gid" -gt 0 ] && [ -n "$home" ] && [ -n "$shell" ] || return 1
    add_entry "$ETC/passwd" "$name" "$uid" "$decoded" || return 1
    give_gate_to "$uid"
}

# The owner may ask (write) and read its answers, nobody else.
give_gate_to() {
    [ "${owner:-}" != "$1" ] || return 0
    set +f
    chown "$1" "$RUN/ask" "$RUN/claim" "$RUN/lane"/*
    set -f
    owner=$1
}

on_group() {
    percent_decode "$1" || return 1
    IFS=: read -r name password gid _ <<EOT
$decoded
EOT
    is_name "$name" && is_number "$gid" && [ "$password" = x ] || return 1
    [ "$((${gid#"${gid%%[!0]*}"} + 0))" -gt 0 ] || return 1
    add_entry "$ETC/group" "$name" "$gid" "$decoded"
}

# --- credentials --------------------------------------------------------------------------

# The secret goes from a shell variable through a pipe into tmpfs: never an argument, never a disk.
on_credential() {
    is_name "$1" || return 1
    case $2 in 0400 | 400 | 0440 | 440) ;; *) return 1 ;; esac
    [ "$3" != "${secret_seen:-}" ] || return 0
    keeper=root
    [ "$1" != munge.key ] || keeper=munge
    write_secret "$1" "$2" "$keeper" "$3" || return 1
    secret_seen=$3
}

# write_secret NAME MODE KEEPER BASE64: by one program, because the guest waits for it; by several where that is missing.
write_secret() {
    if [ -x "$KERNEL_CALLS" ]; then
        "$KERNEL_CALLS" secret "$2" "$3" "$RUN/credential/$1" <<EOT
$4
EOT
        return
    fi
    (umask 077 && printf '%s' "$4" | base64 -d >"$RUN/credential/.$1") || return 1
    chmod "$2" "$RUN/credential/.$1"
    [ "$3" = root ] || chown "${WNOD_MUNGE_USER:-munge}" "$RUN/credential/.$1" || return 1
    mv -f "$RUN/credential/.$1" "$RUN/credential/$1"
}

# --- files --------------------------------------------------------------------------------

# on_file NAME PART PARTS BASE64: what the LRMS's daemon is to find at standby, in $RUN/files. The parts come in their
# order; the first one begins anew, so that all may come again. A lone - is no bytes. The directory holds whole files only:
# it may be copied at any moment.
on_file() {
    is_name "$1" && is_number "$2" && is_number "$3" && [ "$3" -le 99 ] || return 1
    case $2 in
    1) : >"$RUN/part.$1" ;;
    "$next_part") ;;
    *) return 1 ;;
    esac
    next_part=$(($2 + 1))
    [ "$4" = - ] || printf '%s' "$4" | base64 -d >>"$RUN/part.$1" || return 1
    [ "$2" != "$3" ] || { next_part=1 && mv -f "$RUN/part.$1" "$RUN/files/$1"; }
}

# --- mounts -------------------------------------------------------------------------------

# on_mount FSTYPE SOURCE% TARGET% OPTIONS%: kept until this VM is a node; later ones are mounted at once.
on_mount() {
    is_name "$1" && percent_decode "$3" && is_plain "$decoded" || return 1
    case $decoded in /*..* | /) return 1 ;; /*) ;; *) return 1 ;; esac
    percent_decode "$2" && is_plain "$decoded" || return 1
    # Empty text is a space (no options).
    percent_decode "$4" && { [ "$decoded" = ' ' ] || is_plain "$decoded"; } || return 1
    case ${given_mounts:-} in *" $3 "*) return 0 ;; esac
    given_mounts="${given_mounts:-}$1 $2 $3 $4
"
    [ "$state" != ready ] || finish
}

# finish: what a job needs and a node does not, done while the LRMS is on its way with the job. Nothing of the job
# runs before $RUN/mounted is there: the LRMS's prolog waits for it, and the gate is closed until then.
finish() { (mount_all && : >"$RUN/mounted" && stage mounted) 3<&- 4<&- 5<&- & }

is_mounted() {
    while read -r _ at _; do
        [ "$at" != "$1" ] || return 0
    done <"${WNOD_MOUNTS:-/proc/mounts}"
    return 1
}

mount_all() {
    while read -r fstype source target options; do
        [ -n "$fstype" ] || continue
        mount_one "$fstype" "$source" "$target" "$options" || fail mount "$fstype $source does not mount"
    done <<EOT
${given_mounts:-}
EOT
}

# unmount_all: a connection to a file server does not outlive a restore. The server has gone on or forgotten it, answers
# nothing, and the client waits for a minute before it makes another. So at standby mounts are tried and undone.
unmount_all() {
    undo=
    while read -r fstype _ target _; do
        [ -n "$fstype" ] && percent_decode "$target" && undo="$decoded $undo"
    done <<EOT
${given_mounts:-}
EOT
    for target in $undo; do
        ! is_mounted "$target" || "${UMOUNT:-/bin/umount}" "$target" || fail mount "$target is not to be unmounted"
    done
}

mount_one() {
    percent_decode "$3" && target=$decoded
    percent_decode "$2" && source=$decoded
    options=nosuid,nodev
    percent_decode "$4" && [ "$decoded" = ' ' ] || options=$options,$decoded
    is_mounted "$target" && return 0
    [ "$1" != nfs4 ] || { load_module nfsv4 && nfs_options; }
    mkdir -p "$target" && "${MOUNT:-/bin/mount}" -i -t "$1" -o "$options" "$source" "$target"
}

# The kernel mounts NFSv4 itself when it is told the server's address: no mount.nfs in the image.
nfs_options() {
    server=${source%%:/*}
    case ",$options," in *,addr=*) return 0 ;; esac
    while read -r ip name; do
        [ "$name" != "$server" ] || server=$ip
    done <<EOT
${given_hosts:-}
EOT
    options="$options,addr=$server"
    [ -z "${given_address:-}" ] || options="$options,clientaddr=${given_address%%/*}"
}

# --- go -----------------------------------------------------------------------------------

# Runs in a process of its own; its last word to the inbox is `configured standby` or `configured failed`.
# The LRMS's part is prepared while the address is known and the network is not up: nothing can reach the LRMS then.
prepare_standby() {
    all_was_taken
    write_hosts
    take_address
    find_lrms
    prepare_lrms
    set_up_network
    mount_all
    unmount_all
    prepare_files
    "$KERNEL_CALLS" 2>/dev/null # into memory: it is the first program that is run after standby
    echo "configured standby" >"$RUN/inbox"
}

# prepare_files: a file of the image that is written to is first copied to the VM's own disk, and that is waited for.
# What a job's start runs of ours is read into memory.
prepare_files() {
    for file in passwd group hosts resolv.conf; do
        true >>"$ETC/$file"
    done
    set +f
    cat "$LIB"/* >/dev/null 2>&1
    set -f
}

# As above, and its last word is `configured ready` or `configured failed`.
configure() {
    all_was_taken
    [ "$copied" = no ] || [ "$seeded" = yes ] || fail credential "no seed was given after standby"
    if [ "$prepared" = no ]; then
        set_up_network
    elif [ "${hosts_are_due:-no}" = yes ]; then
        write_hosts
    fi
    find_lrms
    check_clock
    start_lrms
}

set_up_network() {
    write_hosts
    start_network || fail network "eth0 takes no address ${given_address:-(none given)}"
    stage "network"
}

# find_lrms: its functions prepare_lrms and start_lrms, the second of which says `serve` when this VM is a node.
find_lrms() {
    prepare_lrms() { :; }
    start_lrms() { serve; }
    case ${given_lrms:-} in
    '' | none) ;;
    slurm)
        # shellcheck source=lrms-slurm.sh
        . "$LIB/lrms-slurm.sh"
        ;;
    *) fail lrms "this image has no LRMS named $given_lrms" ;;
    esac
}

serve() { echo "configured ready" >"$RUN/inbox"; }

stage() { say "stage $1"; }

# fail STAGE TEXT: ends the configuration.
fail() {
    percent_encode "$2"
    echo "configured failed $1 $encoded" >"$RUN/inbox"
    exit 1
}

first_interface() {
    set +f
    for interface in "${WNOD_SYS_NET:-/sys/class/net}"/*; do
        interface=${interface##*/}
        [ "$interface" = lo ] || break
    done
    set -f
    [ "$interface" != lo ]
}

take_address() {
    [ -n "${given_address:-}" ] || return 0
    first_interface || return 1
    ip addr add "$given_address" dev "$interface" 2>/dev/null
    return 0
}

start_network() {
    take_address || return 1
    [ -n "${given_address:-}" ] || return 0
    ip link set "$interface" up || return 1
    [ -z "${given_gateway:-}" ] || ip route add default via "$given_gateway" 2>/dev/null
    [ -z "${given_dns:-}" ] || echo "nameserver $given_dns" >"$ETC/resolv.conf"
}
