"""`python -m deploy.lab up|down|status|shell|exec|purge|images`: the lab for people who want to play."""

from __future__ import annotations

import argparse
import json
import signal
import sys

from deploy.lab import images
from deploy.lab.lab import Lab
from deploy.lab.namespaces import LabError
from deploy.lab.site import bring_up


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m deploy.lab", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the lab with wnod on it (removes what a crashed one left)")
    up.add_argument("--bare", action="store_true", help="only Slurm and libvirt, no wnod")
    commands.add_parser("images", help="build the images of the lab's environments, if they are not there")
    commands.add_parser("down", help="end every process of the lab; logs, homes and images stay")
    commands.add_parser("purge", help="down, and remove all its files")
    status = commands.add_parser("status", help="one screen: nodes, daemons, jobs")
    status.add_argument("--json", action="store_true")
    for name, text in (("shell", "a shell in the lab"), ("exec", "one command in the lab")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--node", default="head", help="head, h1, h2 (default head)")
        command.add_argument("--user", default="alice", help="alice, bob, root, ... (default alice)")
        if name == "exec":
            command.add_argument("argv", nargs=argparse.REMAINDER)
    return top


def say(text: str) -> None:
    print(f"-- {text}", flush=True)


def show_status(lab: Lab, as_json: bool) -> int:
    status = lab.status()
    if as_json:
        print(json.dumps(status, indent=2))
    elif not status["up"]:
        print("the lab is down (`python -m deploy.lab up`)")
    else:
        for node, running in status["nodes"].items():
            words = [
                name if state["running"] else f"{name}(exit {state['exit_code']})" for name, state in running.items()
            ]
            print(f"{node:5} {' '.join(words)}")
        print("slurm " + " ".join(f"{name}={state}" for name, state in status["slurm"].items()))
        print(lab.run("head", ["squeue", "-a", "-o", "%.10i %.8u %.9P %.12T %.8M %.12N %R"]).stdout, end="")
    return 0 if status["up"] else 1


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    lab = Lab()
    try:
        match options.command:
            case "up":
                if options.bare:
                    lab.up()
                else:
                    bring_up(lab, say)
                return show_status(lab, False)
            case "images":
                for name, directory in images.ensure(say).items():
                    print(f"{name:14} {directory}")
            case "down":
                lab.down()
            case "purge":
                lab.purge()
            case "status":
                return show_status(lab, options.json)
            case "shell":
                return lab.popen(options.node, ["bash", "-l"], options.user).wait()
            case "exec":
                words = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
                return lab.popen(options.node, words, options.user).wait()
    except KeyboardInterrupt:
        print("lab: stopped", file=sys.stderr)
        return 130
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
