# shellcheck shell=sh
# Slurm in a guest: munged, then slurmd as a dynamic node that fetches its configuration from
# the controller. Sourced by the agent's configuration, in a process of its own.
MUNGE_KEY=$RUN/credential/munge.key

start_lrms() {
    [ -e "$MUNGE_KEY" ] || fail credential "no munge.key was given"
    [ -n "${given_controller:-}" ] || fail lrms "no controller was given"
    start_munge || fail credential "munged does not start with the munge.key that was given"
    stage "munge"
    make_cgroups
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
        --conf-server "$given_controller" </dev/null 2>&1 | watch_slurmd
    fail lrms "slurmd ended: $(cat "$RUN/lrms-error" 2>/dev/null)"
}

# The console gets slurmd's errors only: its debug lines are for us.
watch_slurmd() {
    while read -r line; do
        case $line in
        *"slurmctld sent back"*) echo "configured ready" >"$RUN/inbox" ;;
        *mpi/pmix* | *"MPI: "*) ;; # every MPI plugin is tried, few are installed
        *error:* | *fatal:*)
            say "$line"
            printf '%s\n' "$line" >"$RUN/lrms-error"
            ;;
        esac
    done
}
