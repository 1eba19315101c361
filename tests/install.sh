#!/usr/bin/env bash
# install.sh slurm | browser: installs what tests need beside Python's packages, where the platform is Debian and we may: Slurm's
# daemons, munge and the shells whose completion is tested; or Chromium, in which pages are tested. Never fails: without them their
# tests are skipped with one line. No daemon is started; the tests start their own as they need them.
set -u

case "${1:-}" in
    slurm)
        tools=(slurmctld slurmd munged sbatch srun zsh fish)
        packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge zsh fish)
        ;;
    browser)
        tools=(chromium)
        packages=(chromium fonts-dejavu-core)
        ;;
    *)
        echo "usage: $0 slurm | browser" >&2
        exit 2
        ;;
esac

have_all() {
    local tool
    for tool in "${tools[@]}"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" >/dev/null || return 1
    done
}

have_all && exit 0
if ! command -v apt-get >/dev/null; then
    echo "$1: this is not Debian, so its tests will be skipped (install ${packages[*]} to run them)"
    exit 0
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "$1: no right to install packages, so its tests will be skipped (apt install ${packages[*]})"
        exit 0
    fi
    as_root=(sudo -n)
fi
echo "$1: installing Debian's packages for the tests"
log=$(mktemp)
# At run level 1 Debian's maintainer scripts start no service.
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o DPkg::Lock::Timeout=120)
if "${install[@]}" update >"$log" 2>&1 && "${install[@]}" install -y --no-install-recommends "${packages[@]}" >>"$log" 2>&1 && have_all; then
    rm -f "$log"
else
    echo "$1: apt-get failed, so its tests will be skipped: $(tail -n 1 "$log")"
fi
exit 0
