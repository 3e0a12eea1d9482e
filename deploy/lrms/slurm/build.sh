#!/bin/sh
# Builds the SPANK plugin: build.sh OUTPUT.so    (Debian: apt-get install gcc libslurm-dev)
# Build it on, or for, the very Slurm release of the node: Slurm refuses plugins of another one.
set -eu
here=$(dirname "$0")
exec "${CC:-gcc}" -std=gnu11 -O2 -fPIC -shared -Wall -Wextra -Werror -o "${1:?usage: build.sh OUTPUT.so}" "$here/spank_wnod.c"
