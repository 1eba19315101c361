"""The heavy modules that each command imports: nobody waits for what a command does not use.

One interpreter imports the command line and is forked for every command. Those that need torch find it imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from albef_ds.cli.main import COMMANDS
from tests.errors.test_train_errors import write_corpus
from tests.inference.tiny_models import model_folder, picture

HEAVY = (
    *("torch", "numpy", "PIL", "tokenizers", "sympy", "torch._dynamo", "torch.utils.tensorboard", "deepspeed", "transformers"),
    *("timm", "torchvision", "triton", "pyarrow", "scipy", "matplotlib", "onnx", "uvicorn", "pydantic", "dask", "webdataset"),
)
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, os, sys
from albef_ds.cli.main import main

def imported(command):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        try:
            code = main(command)
        except SystemExit as ended:
            code = ended.code
        os.write(writer, json.dumps([code, [name for name in heavy if name in sys.modules]]).encode())
        os._exit(0)
    os.close(writer)
    found = os.read(reader, 1 << 16)
    os.waitpid(child, 0)
    return json.loads(found or "null")

heavy, light, with_torch = json.loads(sys.argv[1])
results = [imported(command) for command in light]
import torch
print(json.dumps(results + [imported(command) for command in with_torch]))
"""


def _imported(light: list[list[str]], with_torch: list[list[str]]) -> list[tuple[int, list[str]]]:
    """Exit code and heavy modules of each command; those `with_torch` find torch imported."""
    given = json.dumps([HEAVY, light, with_torch])
    done = subprocess.run([sys.executable, "-c", PROGRAM, given], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [(code, names) for code, names in json.loads(done.stdout)]


def test_each_command_imports_what_it_uses(tmp_path: Path) -> None:
    model, corpus = model_folder(tmp_path, "retrieval"), write_corpus(tmp_path / "corpus")
    photos = tmp_path / "photos"
    photos.mkdir()
    picture(1).save(photos / "1.png")
    tiny = ["--recipe", "debug"]
    light = {
        **{(name, "--help"): 0 for name in COMMANDS},
        ("--help",): 0,
        ("config", *tiny): 0,
        ("recipes",): 0,
        ("runs", str(tmp_path)): 0,
        ("train", *tiny, "train.seed=x"): 2,
        ("evaluate", str(tmp_path / "none")): 2,
    }
    numbers = ["torch", "numpy"]
    reads = [*numbers, "PIL", "tokenizers"]
    settings = [f"data.shards={corpus}", "engine.kind=local", "train.max_steps=1", "data.num_workers=0", f"output={tmp_path}/run"]
    search = ["search", "--model", str(model), "--images", str(photos), "--text", "cup", "--output", str(tmp_path / "page.html")]
    with_torch = {
        ("plan", *tiny, "--throughput"): (0, [*numbers, "PIL"]),
        ("inspect", str(model)): (0, reads),
        ("evaluate", str(corpus)): (2, reads),
        tuple(search): (0, reads),
        # The curves are written by torch's writer for TensorBoard.
        ("train", *tiny, *settings): (0, [*reads, "torch.utils.tensorboard"]),
    }
    found = _imported([list(command) for command in light], [list(command) for command in with_torch])
    expected = [*((code, []) for code in light.values()), *((code, names) for code, names in with_torch.values())]
    different = [
        (" ".join(command), ours, wanted)
        for command, ours, wanted in zip([*light, *with_torch], found, expected, strict=True)
        if (ours[0], sorted(set(ours[1]) - {"triton"})) != (wanted[0], sorted(wanted[1]))
    ]
    assert not different, different


def test_a_module_that_a_command_imports_is_counted() -> None:
    [(code, names)] = _imported([], [["--version"]])
    assert (code, names) == (0, ["torch", "numpy"] if "numpy" in names else ["torch"])
