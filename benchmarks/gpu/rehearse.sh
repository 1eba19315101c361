#!/usr/bin/env bash
# Rehearses the GPU suite without a GPU, in the environment of a machine that has one (see docs/gpu.md):
#
#     benchmarks/gpu/rehearse.sh FOLDER
#
# Makes a virtual environment in FOLDER with exactly the versions below, without DeepSpeed and without any optional package, runs
# the suite's CPU form and the tests of models, losses, kernels and tasks there; then installs DeepSpeed and runs the suite and
# the tests of zero as well. PYTHON names the interpreter (python3). It downloads about 3 GB; FOLDER takes 6 GB.
set -euo pipefail
folder=${1:?give a folder for the environment}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
packages=(torch==2.11.0 torchvision==0.26.0 triton==3.6.0 transformers==5.17.0 timm tensorboard xxhash pillow pytest)
deepspeed=deepspeed==0.19.8
absent=(deepspeed webdataset braceexpand simplejpeg pyarrow scipy pytest_timeout)

export PYTHONPATH=$PWD OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false DS_ACCELERATOR=cpu DS_BUILD_OPS=0
export TORCH_EXTENSIONS_DIR=$folder/torch_extensions
python=$folder/bin/python
failed=()

run() { # run NAME COMMAND...: runs it and remembers whether it failed
    echo "rehearsal: $1"
    "${@:2}" || failed+=("$1")
}
# pyproject.toml's options need pytest-timeout, which such a machine may not have.
tests=("$python" -m pytest -q -p no:cacheprovider -W ignore::pytest.PytestUnknownMarkWarning -o addopts=--import-mode=importlib)
suite=("$python" -m benchmarks.gpu --device cpu --model tiny --minutes 60)
plain=(tests/models tests/tasks tests/engine/test_local.py tests/engine/test_optim.py tests/test_parity.py tests/test_parity_finetune.py
    tests/benchmarks/test_kernels.py)

[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$python" -m pip uninstall --quiet --yes deepspeed 2>/dev/null
"$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
for name in "${absent[@]}"; do
    ! "$python" -c "import $name" 2>/dev/null || { echo "rehearsal: $name is installed in $folder: give an empty folder" >&2; exit 2; }
done
run "suite without DeepSpeed" "${suite[@]}" --out "$folder/out-without"
run "tests without DeepSpeed" "${tests[@]}" "${plain[@]}" --ignore tests/tasks/test_finetuning_engines.py
"$python" -m pip install --quiet --disable-pip-version-check --no-build-isolation "$deepspeed"
# The first use compiles them, for which the tests' time limits do not allow on a loaded machine.
run "DeepSpeed's operators" "$python" -m tests.operators
run "suite with DeepSpeed" "${suite[@]}" --out "$folder/out-with"
# Only an installation compiles the loops; a copied checkout runs without them.
run "tests with DeepSpeed" "${tests[@]}" "${plain[@]}" tests/engine \
    --deselect tests/engine/zero/test_momentum_loop.py::test_installation_compiled_the_loop
for name in without with; do sed -n '/^| section/,/^$/p' "$folder/out-$name/gpu.md"; done
[ ${#failed[@]} = 0 ] || { printf 'rehearsal: failed: %s\n' "${failed[@]}" >&2; exit 1; }
echo "rehearsal: all passed"
