#!/usr/bin/python3 -IS
"""The job starter: what the LRMS runs on a bait in place of the user's program, as the job's user.

It asks the bait over a Unix socket what to do with the job and says it to the LRMS by its exit code, which is
one of three whatever happens: 199 parks the job (requeued and held), 198 hands it back to the queue, 1 ends a
step that is no batch script. No user code ever runs here. Standard library only: nothing of a user's
environment, directory or configuration is read (`python3 -I -S`).

Called as: starter batch|step JOB TASK|- RESTART UID -- the user's argv, which is not looked at
"""

import os
import signal
import stat
import sys
import time

PARK = 199
HAND_BACK = 198
NO_STEP = 1

SOCKET = "/run/wnod/bait/hook.sock"
LIMIT_S = 20.0
"""Also for a bait that is not there: meanwhile its node, open without a daemon, takes no other job out of the queue."""
SETTINGS = "/etc/wnod/starter.conf"
"""Optional; lines `socket=/path` and `limit=seconds`. Read only if root owns it and nobody else may write it."""

ANSWER_LIMIT = 4096
AGAIN_S = 0.25
"""Pause before a bait that is not there is asked again."""
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM, signal.SIGXCPU)
_LEFT_ALONE = frozenset(
    {signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGCHLD}
    | {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
)


def run(argv: list[str], settings_file: str = SETTINGS) -> int:
    """The exit code for this call. Never raises; returns within the limit."""
    try:
        if argv[1] != "batch":
            say("this node only passes batch jobs on to their virtual worker nodes; srun works inside the job")
            return NO_STEP
        settings = read_settings(settings_file)
        limit_s = float(settings.get("limit", LIMIT_S))
        deadline = time.monotonic() + limit_s
        signal.setitimer(signal.ITIMER_REAL, limit_s + 1)  # whatever hangs: SIGALRM hands back
        return ask(settings.get("socket", SOCKET), question(argv), deadline)
    except Exception:
        return HAND_BACK  # the LRMS keeps the job; the bait's log says why


def question(argv: list[str]) -> bytes:
    """The one line that goes to the bait; ValueError if the LRMS's words are not numbers."""
    job, task, restart = argv[2:5]
    numbers = (int(job), "null" if task == "-" else int(task), int(restart))
    return b'{"version":1,"job":"%d","task":%s,"restart":%d,"step":"batch"}\n' % (
        numbers[0],
        str(numbers[1]).encode(),
        numbers[2],
    )


def ask(path: str, line: bytes, deadline: float) -> int:
    """The exit code that the answer means. A bait that is not there may be starting anew: asked until the deadline."""
    while True:
        try:
            answer = answered(path, line, deadline)
        except (ConnectionError, FileNotFoundError):
            answer = b""
        if answer or time.monotonic() + AGAIN_S >= deadline:
            return verdict(answer)
        time.sleep(AGAIN_S)


def answered(path: str, line: bytes, deadline: float) -> bytes:
    """One line to the bait, one line back, before the deadline; empty if the bait went away without a word."""
    import socket  # noqa: PLC0415 (here: what fails to load must hand back too)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bait:
        # Blocking: with a time-out, connect() to a full queue fails at once (EAGAIN) and 500 jobs at once fill it.
        # SIGALRM ends the wait.
        bait.connect(path)
        bait.sendall(line)
        import json  # noqa: F401, PLC0415 (while the bait thinks)

        answer = b""
        while not answer.endswith(b"\n") and len(answer) < ANSWER_LIMIT:
            bait.settimeout(max(0.01, deadline - time.monotonic()))
            part = bait.recv(ANSWER_LIMIT)
            if not part:
                break
            answer += part
    return answer


def verdict(answer: bytes) -> int:
    """What an answer means for the LRMS; ValueError or the like for one that nobody understands."""
    import json  # noqa: PLC0415 (loaded already)

    if not answer.endswith(b"\n"):
        return HAND_BACK
    reply = json.loads(answer)
    if reply["answer"] == "refuse":
        say(str(reply.get("text", "")))
    return PARK if reply["answer"] == "park" else HAND_BACK


def read_settings(path: str) -> dict[str, str]:
    """The settings, if there are any that root alone can have written."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    try:
        facts = os.fstat(opened)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != 0 or facts.st_mode & 0o022:
            return {}
        text = os.read(opened, 4096).decode()
    finally:
        os.close(opened)
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs if value}


def say(text: str) -> None:
    """One printable line into the job's error file, for its user."""
    line = "".join(char if char.isprintable() else " " for char in text[:500])
    try:
        os.write(2, f"wnod: {line.removeprefix('wnod:').lstrip()}\n".encode("ascii", "backslashreplace"))
    except OSError:
        return  # disk full or over quota: the exit code matters more


def take_signals() -> None:
    """A signal must not choose the exit code: the job's end signals hand it back, the user's own are ignored."""
    for number in signal.valid_signals() - _LEFT_ALONE:
        signal.signal(number, signal.SIG_IGN)
    for ending in _ENDING:
        signal.signal(ending, lambda *_: os._exit(HAND_BACK))


def main() -> None:
    """Ends the process, with no clean-up that could change the exit code."""
    code = HAND_BACK
    try:
        take_signals()
        code = run(sys.argv)
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
