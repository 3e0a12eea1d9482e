#!/bin/sh
# Installs what the lab, the images and the tests need on a fresh Debian 12, and the project's own virtual environment.
# Run by `make setup`; safe to run again. Starts no service and changes no configuration of the machine.
set -eu
cd "$(dirname "$0")/.."

PACKAGES="
python3 python3-venv python3-dev gcc libc6-dev pkg-config libvirt-dev
slurmctld slurmd slurm-client munge libslurm-dev
libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils
nfs-ganesha nfs-ganesha-vfs iproute2 procps util-linux e2fsprogs
mmdebstrap squashfs-tools busybox-static cpio lz4 zstd
lua5.3 shellcheck prometheus
"

if [ "$(id -u)" -ne 0 ]; then
    echo "setup: run as root: packages are installed, and the lab needs namespaces and virtual machines" >&2
    exit 1
fi

missing=
for package in $PACKAGES; do
    status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "setup: installing$missing"
    # Debian starts what it installs; the lab brings its own daemons, and the machine is to stay as it is.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 0755 /usr/sbin/policy-rc.d
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=600 update -qq
    # shellcheck disable=SC2086 # a list of words
    apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends $missing >build/apt.log 2>&1 || {
        tail -n 30 build/apt.log >&2
        exit 1
    }
fi

# The distribution's Python: libvirt-python is compiled against the libvirt that is installed here.
if [ ! -x .venv/bin/python ]; then
    echo "setup: making the virtual environment .venv"
    /usr/bin/python3 -m venv .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
echo "setup: done"
