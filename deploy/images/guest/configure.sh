# shellcheck shell=sh
# What the hostmaster gives a guest before `go`, and how it is put in place. Sourced by the agent.
# Every on_* function may be called again with the same words: it then changes nothing.
ETC=${WNOD_ETC:-/etc}

node_name_of_cmdline() {
    read -r cmdline <"${WNOD_CMDLINE:-/proc/cmdline}"
    for word in $cmdline; do
        case $word in wnod.name=*) node_name=${word#wnod.name=} ;; esac
    done
    is_name "${node_name:-}"
}

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

on_set() {
    percent_decode "$2" && is_plain "$decoded" || return 1
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
    *) return 1 ;;
    esac
}

on_host() {
    is_plain "$1" && is_name "$2" || return 1
    case ${given_hosts:-} in *"$1 $2
"*) return 0 ;; esac
    given_hosts="${given_hosts:-}$1 $2
"
    [ "$state" = waiting ] || write_hosts
}

write_hosts() {
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n%s' "$node_name" "${given_hosts:-}" >"$ETC/hosts"
}

# The clock of a restored guest is old, and a credential of the LRMS then looks expired.
set_clock() {
    is_number "${1%%.*}" && is_number "${1#*.}" || return 1
    date -s "@$1" >/dev/null 2>&1 || date -s "@${1%%.*}" >/dev/null
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
    is_name "$name" && is_number "$uid" && is_number "$gid" && [ "$password" = x ] || return 1
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
    chmod 0700 "$RUN/claim"
    chmod 0711 "$RUN/lane"
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
    (umask 077 && printf '%s' "$3" | base64 -d >"$RUN/credential/.$1") || return 1
    chmod "$2" "$RUN/credential/.$1"
    [ "$1" != munge.key ] || chown "${WNOD_MUNGE_USER:-munge}" "$RUN/credential/.$1" || return 1
    mv -f "$RUN/credential/.$1" "$RUN/credential/$1"
    secret_seen=$3
}

# --- mounts -------------------------------------------------------------------------------

# on_mount FSTYPE SOURCE% TARGET% OPTIONS%: kept until go; later ones are mounted at once.
on_mount() {
    is_name "$1" && percent_decode "$3" && is_plain "$decoded" || return 1
    case $decoded in /*..* | /) return 1 ;; /*) ;; *) return 1 ;; esac
    percent_decode "$2" && is_plain "$decoded" && percent_decode "$4" && is_plain "$decoded" || return 1
    case ${given_mounts:-} in *" $3 "*) return 0 ;; esac
    given_mounts="${given_mounts:-}$1 $2 $3 $4
"
    [ "$state" = waiting ] || (mount_all) 3<&- 4<&- 5<&- &
}

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

mount_one() {
    percent_decode "$3" && target=$decoded
    percent_decode "$2" && source=$decoded
    percent_decode "$4" && options=$decoded
    is_mounted "$target" && return 0
    [ "$1" != nfs4 ] || { load_module nfsv4 && nfs_options; }
    mkdir -p "$target" && "${MOUNT:-/bin/mount}" -i -t "$1" -o "nosuid,nodev,$options" "$source" "$target"
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
    options="$options,addr=$server,clientaddr=${given_address%%/*}"
}

# --- go -----------------------------------------------------------------------------------

# Runs in a process of its own; its last word to the inbox is `configured ready` or `configured failed`.
configure() {
    write_hosts
    start_network || fail network "eth0 takes no address ${given_address:-(none given)}"
    stage "network"
    mount_all
    case ${given_lrms:-} in
    '' | none) echo "configured ready" >"$RUN/inbox" ;;
    slurm)
        # shellcheck source=lrms-slurm.sh
        . "$LIB/lrms-slurm.sh"
        start_lrms
        ;;
    *) fail lrms "this image has no LRMS named $given_lrms" ;;
    esac
}

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

start_network() {
    [ -n "${given_address:-}" ] || return 0
    first_interface || return 1
    ip addr add "$given_address" dev "$interface" 2>/dev/null
    ip link set "$interface" up || return 1
    [ -z "${given_gateway:-}" ] || ip route add default via "$given_gateway" 2>/dev/null
    [ -z "${given_dns:-}" ] || echo "nameserver $given_dns" >"$ETC/resolv.conf"
}
