# shellcheck shell=sh
# The gate: may this run's user code start here? Sourced by the agent, which owns the variables
# asks, ended and counter. A started run has a marker, the file $RUN/runs/JOB.RESTART, which only root
# can make, and only once per boot; $RUN/runs/JOB says that there is one. (An array task has a JOB id of its own.)

# Requests of the starter come through a FIFO that the job's owner may write. Its own reader
# checks every line, so an owner who writes rubbish cannot disturb the loop.
read_asks() {
    exec 6<>"$RUN/ask"
    while read -r word kind job task restart uid lane rest <&6; do
        if [ "$word" != ask ] || [ -n "$rest" ]; then continue; fi
        is_question || continue
        echo "ask $kind $job $task $restart $uid $lane" >"$RUN/inbox"
    done
}

is_question() {
    case $kind in batch | step) ;; *) return 1 ;; esac
    is_run "$job" "$task" "$restart" && is_number "$uid" && is_lane "$lane"
}

is_lane() {
    case " $LANES " in *" $1 "*) [ -n "$1" ] ;; *) return 1 ;; esac
}

is_run() {
    is_number "$1" && is_number "$3" || return 1
    [ "$2" = - ] || is_number "$2"
}

# reply LANE WORD JOB RESTART: never blocks, also when the starter has gone (opening both ways).
reply() { echo "$2 $3 $4" 1<>"$RUN/lane/$1"; }

# $asks holds one line "n kind job task restart uid lane" for each question without an answer.
on_ask() {
    # A step of a started run goes on; a second batch start of the same run never does.
    if [ "$1" = step ] && [ -e "$RUN/runs/$2" ]; then
        reply "$6" allow "$2" "$4"
        return 0
    elif [ -e "$RUN/runs/$2.$4" ] || [ ! -e "$RUN/mounted" ]; then
        reply "$6" deny "$2" "$4"
        return 0
    fi
    if [ "$1" = batch ] || ! open_question "$2" "$4"; then
        counter=$((counter + 1))
        open=$counter
        send "may-start $boot_id $counter $2 $3 $4 $5"
    fi
    [ -n "$asks" ] || arm 1 repeat
    asks="$asks$open $*
"
}

# open_question JOB RESTART: the number of a step's question about this run in $open, which
# another step of it then shares.
open_question() {
    while read -r open kind job _ restart _; do
        [ "$kind $job $restart" = "step $1 $2" ] && return 0
    done <<EOT
$asks
EOT
    return 1
}

on_repeat() {
    [ -n "$asks" ] || return 0
    arm 1 repeat
    while read -r n _ job task restart uid _; do
        [ -n "$n" ] && send "may-start $boot_id $n $job $task $restart $uid"
    done <<EOT
$asks
EOT
}

# on_answer allow|deny N: 1 when no question has this number.
on_answer() {
    is_number "$2" || return 1
    kept='' answered=1
    while read -r n kind job task restart uid lane; do
        [ -n "$n" ] || continue
        if [ "$n" = "$2" ]; then
            answered=0
            settle "$1" "$kind" "$job" "$task" "$restart" "$lane"
        else
            kept="$kept$n $kind $job $task $restart $uid $lane
"
        fi
    done <<EOT
$asks
EOT
    asks=$kept
    return "$answered"
}

# settle ANSWER KIND JOB TASK RESTART LANE: making the marker is what permits to start.
settle() {
    if [ "$1" = allow ] && make_marker "$3" "$4" "$5"; then
        reply "$6" allow "$3" "$5"
        say "start job $3 task $4 restart $5"
    elif [ "$1" = allow ] && [ "$2" = step ]; then
        reply "$6" allow "$3" "$5"
    else
        say "no start of job $3 task $4 restart $5"
        reply "$6" deny "$3" "$5"
    fi
}

# With noclobber the shell itself makes the file, and only if there is none: no other program is started.
make_marker() {
    set -C
    { echo "$2" >"$RUN/runs/$1.$3"; } 2>/dev/null
    made=$?
    set +C
    [ "$made" = 0 ] && echo >"$RUN/runs/$1"
}

# on_finished JOB STATUS (from the epilog): says which run of the job has ended here, and
# forgets questions of the job that nobody waits for any more.
on_finished() {
    is_number "$1" || return 0
    for marker in $(set +f && echo "$RUN/runs/$1".*); do
        [ -r "$marker" ] || continue
        read -r task <"$marker"
        line="finished $boot_id $1 $task ${marker##*.} $2"
        case $ended in *"$line"*) ;; *) remember_ended "$line" ;; esac
        send "$line"
    done
    forget_asks "$1"
    say "finished $1"
}

# The last eight are repeated after each welcome, for a hostmaster that was away.
remember_ended() {
    ended="${ended:+$ended
}$1"
    endings=$((${endings:-0} + 1))
    [ "$endings" -le 8 ] || ended=${ended#*
}
}

forget_asks() {
    kept=''
    while read -r n kind job rest; do
        [ -z "$n" ] || [ "$job" = "$1" ] || kept="$kept$n $kind $job $rest
"
    done <<EOT
$asks
EOT
    asks=$kept
}
