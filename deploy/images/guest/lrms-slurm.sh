# shellcheck shell=sh
# Slurm in a guest: munged, then slurmd as a dynamic node that fetches its configuration from
# the controller. Sourced by the agent's configuration, in a process of its own.
MUNGE_KEY=$RUN/credential/munge.key
MUNGE_SOCKET=/run/munge/munge.socket.2
CONF=/run/slurm/conf # where commands look for what slurmd has fetched; so also for what it was given
EARLY_LIMIT_S=5
# What slurmd has found of the machine, each slurmstepd would look for anew before its job (0.02 s in an emulated guest).
export HWLOC_THISSYSTEM=1 HWLOC_XMLFILE=/var/spool/slurmd/hwloc_topo_whole.xml

# prepare_lrms: what needs neither key nor controller. All that the daemons and a job's start will read is read once,
# so that a guest that is restored has it in memory. With files for it, slurmd is started as well.
prepare_lrms() {
    make_cgroups
    set +f
    cat "$LIB/spank_wnod.so" /usr/lib/*/slurm-wlm/*.so >/dev/null 2>&1
    read_with_libraries /usr/sbin/munged /usr/sbin/slurmd /usr/sbin/slurmstepd /usr/lib/*/slurm-wlm/cgroup_v2.so \
        /bin/sh /bin/bash
    set -f
    /usr/sbin/munged --version >/dev/null 2>&1
    /usr/sbin/slurmd -V >/dev/null 2>&1
    [ ! -e "$RUN/files/slurm.conf" ] || [ -e "$RUN/early" ] || start_early || stop_early
}

# read_with_libraries FILE...: into memory, with all that the dynamic linker will load for them.
read_with_libraries() {
    for file; do
        echo "$file"
        /lib64/ld-linux-x86-64.so.2 --list "$file" 2>/dev/null
    done | awk '{ for (i = 1; i <= NF; i++) if ($i ~ "^/") print $i }' | sort -u | xargs cat >/dev/null 2>&1
}

start_lrms() {
    [ -e "$MUNGE_KEY" ] || fail credential "no munge.key was given"
    [ -n "${given_controller:-}" ] || fail lrms "no controller was given"
    describe_offer
    go_on_early
    start_munge "$MUNGE_KEY" || fail credential "munged does not start with the munge.key that was given"
    stage "munge"
    [ "$prepared" = yes ] || make_cgroups
    wake_early && return 0
    stop_early
    run_slurmd
}

# start_munge KEY MORE... (start-stop-daemon looks at every process before it starts one: 0.04 s.)
start_munge() {
    [ ! -S $MUNGE_SOCKET ] || return 0
    [ -d /run/munge ] || { mkdir -p /run/munge && chown munge:munge /run/munge; }
    _key=$1
    shift
    "$KERNEL_CALLS" as munge /usr/sbin/munged --key-file="$_key" --num-threads=1 "$@"
}

# slurmd 22.05 without systemd: it makes its scopes under system.slice, which must exist and
# have the controllers that the steps are to use. `pids` is there for slurmd 22.05's reading of
# cgroup.controllers: it takes the line feed for a part of the last name, and then misses memory.
make_cgroups() {
    mkdir -p /sys/fs/cgroup/system.slice
    for group in /sys/fs/cgroup /sys/fs/cgroup/system.slice; do
        echo "+cpuset +cpu +memory +pids" >"$group/cgroup.subtree_control"
    done
}

# Asking Slurm whether the node has registered costs a program and a round trip each time;
# slurmd says so itself when it is told to be talkative, at no cost.
run_slurmd() {
    /usr/sbin/slurmd -D -vv -Z -N "$node_name" --conf "$offer" \
        --conf-server "$given_controller" </dev/null 2>&1 | pass_on | watch_slurmd serve
    fail lrms "slurmd ended: $(cat "$RUN/lrms-error" 2>/dev/null)"
}

describe_offer() {
    offer="CPUs=${given_cpus:-1}"
    [ -z "${given_memory_mib:-}" ] || offer="$offer RealMemory=$given_memory_mib"
    [ -z "${given_disk_mib:-}" ] || offer="$offer TmpDisk=$given_disk_mib"
    [ -z "${given_features:-}" ] || offer="$offer Feature=$given_features"
}

# A shell reads byte by byte, which is slow in an emulated guest: awk lets pass what matters.
pass_on() { awk '/error:|fatal:|slurmctld sent back/ { print; fflush() }'; }

# watch_slurmd REGISTERED: calls it. The console gets slurmd's errors only: its debug lines are for us. What it misses
# while there is no key is no error.
watch_slurmd() {
    while read -r line; do
        case $line in
        *"slurmctld sent back"*) "$1" ;;
        *mpi/pmix* | *"MPI: "*) ;; # every MPI plugin is tried, few are installed
        *error:* | *fatal:*)
            if [ ! -e "$MUNGE_KEY" ]; then
                printf '%s\n' "$line" >"$RUN/early-error"
                continue
            fi
            say "$line"
            printf '%s\n' "$line" >"$RUN/lrms-error"
            ;;
        esac
    done
}

# --- a slurmd that runs before it may know anything ----------------------------------------

# start_early: slurmd with the files that were given at standby. There is no network yet, so it reaches nobody, and
# munged has a key of the moment, because slurmd waits 2 s where no munged answers. As soon as slurmd sleeps between two
# tries to register, it is stopped: what stands still for hours must not knock at the controller's door.
start_early() {
    describe_offer
    if ! lay_out_early; then
        say "slurmd is not up at standby: its files cannot be put in place"
        return 1
    fi
    key_of_the_moment
    (watch_early) &
    /usr/sbin/slurmd -D -vv -Z -N "$node_name" --conf "$offer" -f "$CONF/slurm.conf" </dev/null >"$RUN/early-log" 2>&1 &
    early=$!
    wait_until_it_sleeps
    slept=$?
    forget_key_of_the_moment
    if [ "$slept" = 0 ] && kill -STOP "$early"; then
        echo "$early $sleeper $offer" >"$RUN/early"
        stage "slurmd"
    else
        say "slurmd is not up at standby: $(cat "$RUN/early-error" 2>/dev/null)"
        return 1
    fi
}

lay_out_early() {
    mkdir -p "${CONF%/*}" && cp -r "$RUN/files" "$CONF" && chmod 0755 "$CONF" && mkfifo "$RUN/early-log" "$RUN/early-says"
}

key_of_the_moment() {
    mkdir -p /run/munge
    (umask 077 && head -c 128 /dev/urandom >/run/munge/moment.key)
    chown munge:munge /run/munge /run/munge/moment.key
    start_munge /run/munge/moment.key --seed-file=/run/munge/moment.seed
}

forget_key_of_the_moment() {
    munge=0
    { read -r munge </run/munge/munged.pid && kill "$munge"; } 2>/dev/null
    tries=0
    while [ -S $MUNGE_SOCKET ] && [ "$tries" -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.02
    done
    # Whoever still answers there would be taken for the munged that has the key.
    [ ! -S $MUNGE_SOCKET ] || kill -KILL "$munge"
    rm -f $MUNGE_SOCKET /run/munge/moment.key /run/munge/moment.seed
}

watch_early() {
    pass_on <"$RUN/early-log" | watch_slurmd early_registered
    [ ! -e "$RUN/early-serves" ] || fail lrms "slurmd ended: $(cat "$RUN/lrms-error" 2>/dev/null)"
    echo ended >"$RUN/early-says"
}

early_registered() {
    [ ! -e "$RUN/early-serves" ] || return 0
    : >"$RUN/early-serves"
    serve
    echo registered >"$RUN/early-says"
}

# wait_until_it_sleeps: the thread that is to register, in $sleeper, once it sleeps between two tries (system call 230,
# clock_nanosleep). It is the last one that slurmd makes.
wait_until_it_sleeps() {
    tries=0
    while kill -0 "$early" 2>/dev/null && [ "$tries" -lt 200 ]; do
        sleeper=
        for task in $(set +f && echo /proc/"$early"/task/*); do
            [ "${task##*/}" != "$early" ] && read -r call _ <"$task/syscall" && [ "$call" = 230 ] && sleeper=${task##*/}
        done 2>/dev/null
        [ -z "$sleeper" ] || return 0
        tries=$((tries + 1))
        sleep 0.05
    done
    return 1
}

# go_on_early: early enough for the threads to have seen it when they are to hear the next signal.
go_on_early() {
    early='' sleeper=''
    [ -e "$RUN/early" ] || return 0
    read -r early sleeper offered <"$RUN/early"
    rm -f "$RUN/early"
    if [ "$offered" = "$offer" ]; then kill -CONT "$early"; else stop_early; fi
}

# wake_early: 0 when this VM is a node by the slurmd that was started at standby. SIGUSR2 only has it look at its log
# file; but whatever thread gets it ends its sleep. (SIGHUP would have it wait for that very thread first, 5 s.)
wake_early() {
    [ -n "$sleeper" ] || return 1
    exec 6<>"$RUN/early-says"
    # Once more, should another thread have taken the first one, as may be where the two have only just been let go on.
    for patience in 0.3 "$EARLY_LIMIT_S"; do
        kill -USR2 "$sleeper" 2>/dev/null
        # shellcheck disable=SC3045 # the image runs this with busybox
        read -t "$patience" -r heard <&6 && break
        heard=late
    done
    exec 6>&-
    [ "$heard" = registered ] || { say "slurmd of standby: $heard" && return 1; }
}

# stop_early: and what it leaves would be in the way of a slurmd that fetches its configuration.
stop_early() {
    tries=0
    [ -z "${early:-}" ] || { kill -KILL "$early" && wait "$early"; } 2>/dev/null
    while [ -n "${early:-}" ] && kill -0 "$early" 2>/dev/null && [ "$tries" -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.02
    done
    early='' sleeper=''
    if [ -e "$RUN/early" ] || [ -e "$CONF" ]; then rm -rf "$RUN/early" "$CONF"; fi
}
