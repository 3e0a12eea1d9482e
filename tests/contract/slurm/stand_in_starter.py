#!/usr/bin/python3 -I
"""A starter that shows what it got and obeys the job's PLAN: `199`, `198`, `crash 1`, `meant 7`, `wait 199`, ...

In a VM (no WNOD_USER_ENV_FD) it becomes the user's program.
"""

import json
import os
import pwd
import sys
import time

task = "" if sys.argv[3] == "-" else f"_{sys.argv[3]}"
job, restart = sys.argv[2] + task, sys.argv[4]
descriptor = os.environ.get("WNOD_USER_ENV_FD")
if descriptor is None:
    program = sys.argv[sys.argv.index("--") + 1 :]
    os.execv(program[0], program)
user = dict(word.split("=", 1) for word in os.pread(int(descriptor), 1 << 20, 0).decode().split("\0") if "=" in word)
home = pwd.getpwuid(os.getuid()).pw_dir
with open(f"{home}/seen.{job}.{restart}.new", "w") as seen:
    json.dump({"argv": sys.argv[1:], "environment": dict(os.environ), "user": user, "uid": os.getuid()}, seen)
os.rename(seen.name, seen.name.removesuffix(".new"))
manner, _, code = user.get("PLAN", "exit 199").partition(" ")
if manner == "wait":
    while not os.path.exists(f"{home}/go.{job}"):
        time.sleep(0.05)
if manner == "meant":
    os.write(int(os.environ["WNOD_VERDICT_FD"]), b"x")
sys.exit(int(code))
