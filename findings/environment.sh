# Sourced by the findings: `environment PACKAGE==VERSION...` makes a virtual environment in a temporary folder and puts it first on PATH.
# FINDINGS_ENVIRONMENTS=FOLDER keeps environments there, one per set of packages, for the next finding that needs the same set.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

environment() {
    local folder=$work/environment
    if [ -n "${FINDINGS_ENVIRONMENTS:-}" ]; then
        folder=$FINDINGS_ENVIRONMENTS/$(printf '%s\n' "$@" | sha256sum | cut -c1-16)
    fi
    if [ ! -e "$folder/.ready" ]; then
        "${PYTHON:-python3}" -m venv --clear "$folder"
        "$folder/bin/pip" install --quiet --disable-pip-version-check setuptools wheel
        DS_BUILD_OPS=0 "$folder/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation "$@"
        touch "$folder/.ready"
    fi
    export PATH=$folder/bin:$PATH
}

# One rank of DeepSpeed on a CPU, without its messages.
deepspeed_rank() {
    DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=${MASTER_PORT:-29571} \
        TORCH_EXTENSIONS_DIR=$work/extensions python "$@" 2>"$work/messages" || { tail -20 "$work/messages"; exit 1; }
}

# `expect FILE` compares what was seen with standard input, and fails where they differ.
expect() {
    if diff - "$1"; then
        echo "as found"
    else
        echo "changed: the lines with > are what is seen now"
        exit 1
    fi
}
