# shellcheck shell=sh
# Slurm in a guest: munged, then slurmd as a dynamic node that fetches its configuration from
# the controller. Sourced by the agent's configuration, in a process of its own.
MUNGE_KEY=$RUN/credential/munge.key

# prepare_lrms: what needs neither key nor controller. No daemon is started, but all that the daemons and a
# job's start will read is read once, so that a guest that is restored has it in memory.
prepare_lrms() {
    make_cgroups
    set +f
    cat "$LIB/spank_wnod.so" /usr/lib/*/slurm-wlm/*.so >/dev/null 2>&1
    read_with_libraries /usr/sbin/munged /usr/sbin/slurmd /usr/sbin/slurmstepd /usr/lib/*/slurm-wlm/cgroup_v2.so
    set -f
    /usr/sbin/munged --version >/dev/null 2>&1
    /usr/sbin/slurmd -V >/dev/null 2>&1
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
    start_munge || fail credential "munged does not start with the munge.key that was given"
    stage "munge"
    [ "$prepared" = yes ] || make_cgroups
    run_slurmd
}

start_munge() {
    [ ! -S /run/munge/munge.socket.2 ] || return 0
    mkdir -p /run/munge
    chown munge:munge /run/munge
    start-stop-daemon -S -q -c munge:munge -x /usr/sbin/munged -- \
        --key-file="$MUNGE_KEY" --num-threads=1
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
    offer="CPUs=${given_cpus:-1}"
    [ -z "${given_memory_mib:-}" ] || offer="$offer RealMemory=$given_memory_mib"
    [ -z "${given_disk_mib:-}" ] || offer="$offer TmpDisk=$given_disk_mib"
    [ -z "${given_features:-}" ] || offer="$offer Feature=$given_features"
    /usr/sbin/slurmd -D -vv -Z -N "$node_name" --conf "$offer" \
        --conf-server "$given_controller" </dev/null 2>&1 |
        awk '/error:|fatal:|slurmctld sent back/ { print; fflush() }' | watch_slurmd
    fail lrms "slurmd ended: $(cat "$RUN/lrms-error" 2>/dev/null)"
}

# The console gets slurmd's errors only: its debug lines are for us. A shell reads byte by byte, which is slow in an
# emulated guest: awk lets pass what matters.
watch_slurmd() {
    while read -r line; do
        case $line in
        *"slurmctld sent back"*) serve ;;
        *mpi/pmix* | *"MPI: "*) ;; # every MPI plugin is tried, few are installed
        *error:* | *fatal:*)
            say "$line"
            printf '%s\n' "$line" >"$RUN/lrms-error"
            ;;
        esac
    done
}

# A step's daemon that is told nothing ends at once.
rehearse_lrms() { nice -n 19 /usr/sbin/slurmstepd </dev/null >/dev/null 2>&1; }
