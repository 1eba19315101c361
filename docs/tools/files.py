"""Writes docs/files.md: one phrase per file of the tree, for a module the first sentence of its docstring.

`python -m docs.tools.files` rewrites the page; `tests/docs/test_files.py` fails if it is stale or a file has no phrase.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

from docs.tools.generated import ROOT, rewrite

PAGE = ROOT / "docs" / "files.md"
NAME = "files"

FOLDERS = {
    "albef_ds": "The package, from the command line down to the mathematics ([architecture.md](architecture.md)).",
    "data_tools": "From raw corpora to clean, shuffled shards ([data_tools.md](data_tools.md)).",
    "benchmarks": "Benchmark scripts, each with its record beside it.",
    "findings": "Behaviour of other software that surprised us, each a script that shows it.",
    "tests": "Tests, in the layout of the tree.",
}
"""Text under a heading of the page, by the first part of a path."""

UNLISTED = re.compile(
    r"(.*/)?(__init__\.py|py\.typed)|(tests|benchmarks)/.*\.(json|npz)|corpora/.*/LICENSES/.*|.*\.(png|svg)|\..*"
)
"""Files that the page leaves out: their neighbours explain them."""

PHRASES = {
    "README.md": "overview of the project",
    "CHANGELOG.md": "changes of each version",
    "CONTRIBUTING.md": "house rules",
    "LICENSE": "Apache-2.0",
    "NOTICE": "material included from other projects, and its licences",
    "Makefile": "the targets that `make` lists",
    "constraints.txt": "the tested package versions",
    "mkdocs.yml": "the site that `make docs` builds",
    "pyproject.toml": "the package, its dependencies and extras, and the settings of the tools",
    "albef_ds/assets/LICENSE.bert-vocab.txt": "licence of the vocabulary",
    "albef_ds/assets/band-demo_emoji.json": "band of the demonstration's loss, for `albef-ds compare-curve`",
    "albef_ds/assets/bert-base-uncased-vocab.txt": "WordPiece vocabulary of bert-base-uncased",
    "albef_ds/data/images/pixel_loops_c.c": "RandAugment's loops over the pixels of an image in C",
    "albef_ds/engine/zero/momentum_loop_c.c": "the update of value and residual in one pass in C",
    "albef_ds/data/images/box_means_c.c": "means of boxes of an image in C",
    "corpora/emoji/checksums.json": "SHA-256 of the archives",
    "corpora/emoji/flags.tar.xz": "flags, reported separately",
    "corpora/emoji/test.tar.xz": "300 held-out concepts, for reporting",
    "corpora/emoji/train.tar.xz": "the training images",
    "corpora/emoji/val.tar.xz": "150 held-out concepts, for choosing settings",
    "docs/quickstart.ipynb": "a notebook that loads a model, searches, grounds words and fine-tunes on ten images",
    "docs/style/site.css": "widths of the site's tables",
    "ds_configs/zero1.json": "ZeRO-1",
    "ds_configs/zero2.json": "ZeRO-2",
    "ds_configs/zero3.json": "ZeRO-3",
    "ds_configs/zero3_8.json": "ZeRO-3 on one node",
    "ds_configs/zero3_64.json": "ZeRO-3 on about 8 nodes",
    "ds_configs/zero3_512.json": "ZeRO-3 on about 64 nodes",
    "ds_configs/zero3_hpz.json": "ZeRO-3 with a second copy of the parameters in each node",
    "ds_configs/zero3_offload.json": "ZeRO-3 with parameters and optimizer in CPU memory",
    "slurm/data.sbatch": "a stage of `albef-data`, as a single job or an array of tasks",
    "slurm/evaluate.sbatch": "evaluation",
    "slurm/finetune.sbatch": "fine-tuning with the same restarts as pretraining",
    "benchmarks/gpu/rehearse.sh": "rehearses the GPU suite in the environment of a machine that has a GPU, without one",
    "slurm/lib.sh": "functions of the batch scripts: site, container, head node, requeueing",
    "slurm/preflight.sbatch": "a check of the nodes without training",
    "slurm/pretrain.sbatch": "pretraining that resumes after preemption, time limits and dead nodes",
    "slurm/site.env.example": "settings of a site, to copy to site.env",
    "albef_ds/inference/serving/static/page.css": "the style of the page of `albef-ds serve`",
    "albef_ds/inference/serving/static/page.html": "the page of `albef-ds serve`",
    "albef_ds/inference/serving/static/page.js": "what the page of `albef-ds serve` does",
    "tests/install.sh": "installs Slurm or Chromium for the tests on Debian, without starting a daemon",
}
"""Phrases of files without a docstring or heading."""


def tracked() -> list[str]:
    """Returns the paths of the existing files under version control."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    return [path for path in listed if path and (ROOT / path).exists()]


def phrase(path: str) -> str | None:
    """Returns one phrase for a file; empty if it needs none, None if none is known."""
    if path in PHRASES:
        return PHRASES[path]
    if UNLISTED.fullmatch(path):
        return ""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".py"):
        return first_sentence(ast.get_docstring(ast.parse(text)))
    if path.endswith(".md"):
        heading = next((line for line in text.splitlines() if line.startswith("# ")), None)
        return heading and heading[2:]
    if path.startswith("findings/"):
        return next(line[2:] for line in text.splitlines() if re.match("# [A-Z]", line)).rstrip(".:")
    return None


def first_sentence(docstring: str | None) -> str | None:
    """Returns the text up to the first full stop or semicolon."""
    if not docstring:
        return None
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[\w)`\]])[.;](?=\s|$)", paragraph)[0].rstrip(".")


def page_text(paths: list[str]) -> str:
    """Returns the generated part of docs/files.md. Raises `ValueError` for files without a phrase."""
    phrases = {path: phrase(path) for path in paths}
    if unknown := [path for path, text in phrases.items() if text is None]:
        raise ValueError(f"no phrase for {', '.join(unknown)}: start each with a docstring, or add it to docs/tools/files.py")
    folders: dict[str, list[str]] = {}
    for path in sorted(paths):
        if phrases[path]:
            folders.setdefault(str(Path(path).parent), []).append(path)
    parts, top = list[str](), ""
    for folder in sorted(folders, key=lambda name: (name != ".", name)):
        first = folder.split("/")[0]
        if first != top:
            top = first
            parts += [f"## {top}/" if top != "." else "## Repository root", FOLDERS.get(top, "")]
        if folder != top:
            parts += [f"### {folder}/", introduction(folder)]
        rows = "\n".join(f"| `{Path(path).name}` | {phrases[path]} |" for path in folders[folder])
        parts.append(f"| file | content |\n|---|---|\n{rows}")
    return "\n\n".join(part for part in parts if part)


def introduction(folder: str) -> str:
    """Returns the first sentence of a package's docstring, or an empty text."""
    init = ROOT / folder / "__init__.py"
    sentence = first_sentence(ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))) if init.exists() else None
    return f"{sentence}." if sentence else ""


def main() -> None:
    """Writes the page."""
    rewrite(PAGE, NAME, page_text(tracked()))


if __name__ == "__main__":
    main()
