#!/usr/bin/env bash
# Installs Slurm's daemons and munge for the tests, and the shells whose completion is tested, where the platform is Debian
# and we may. Never fails: without them their tests are skipped with one line. No daemon is started; the tests start their
# own as they need them.
set -u

have_all() {
    local tool
    for tool in slurmctld slurmd munged sbatch srun zsh fish; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" >/dev/null || return 1
    done
}

have_all && exit 0
if ! command -v apt-get >/dev/null; then
    echo "slurm: this is not Debian, so the tests of Slurm, zsh and fish will be skipped (install slurmctld, slurmd, munge and the shells to run them)"
    exit 0
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "slurm: no right to install packages, so the tests of Slurm, zsh and fish will be skipped (apt install slurmctld slurmd munge zsh fish)"
        exit 0
    fi
    as_root=(sudo -n)
fi
echo "slurm: installing Debian's packages for the tests"
packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge zsh fish)
log=$(mktemp)
# At run level 1 Debian's maintainer scripts start no service.
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o DPkg::Lock::Timeout=120)
if "${install[@]}" update >"$log" 2>&1 && "${install[@]}" install -y --no-install-recommends "${packages[@]}" >>"$log" 2>&1 && have_all; then
    rm -f "$log"
else
    echo "slurm: apt-get failed, so the tests of Slurm, zsh and fish will be skipped: $(tail -n 1 "$log")"
fi
exit 0
