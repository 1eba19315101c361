"""An outside check of VQA: the `easy-vqa` package's 5,000 pictures and 48,248 questions with 13 answers.

    pip install --no-deps easy-vqa
    python -m benchmarks.easy_vqa --steps 6000 --record

The package's files are turned into the released VQA format, a small model is trained on them from scratch, and the test
questions are scored by the official accuracy.
"""

from __future__ import annotations

import argparse
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from albef_ds.cli.main import main as command_line
from albef_ds.data.captions import clean_caption
from albef_ds.errors import ConfigError
from albef_ds.scoring import Request, score

PACKAGE = "easy-vqa"
HELD_OUT = 500
"""Training pictures kept for validation."""
_ANNOTATORS = 10


def package_data() -> Path:
    """The folder with the package's `train` and `test`; only its files are used, never its code.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise ConfigError(f"{PACKAGE} is not installed: run `pip install --no-deps {PACKAGE}`") from None
    for file in files:
        if file.name == "questions.json" and file.parent.name == "train":
            return Path(str(file.locate())).parent.parent
    raise ConfigError(f"the installed {PACKAGE} has no train/questions.json: install it again")


def convert(data: Path, out: Path) -> dict[str, int]:
    """Write vqa_{train,val,test}.json, answer_list.json and vocab.txt; returns the number of questions of each."""
    out.mkdir(parents=True, exist_ok=True)
    counts, words, answers, number = {}, set(), set(), 0
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for part in ("train", "test"):
        for question, answer, image in json.loads((data / part / "questions.json").read_text()):
            number += 1
            split = "val" if part == "train" and int(image) < HELD_OUT else part
            row = {"question_id": number, "question": question, "image": f"{part}/images/{image}.png", "dataset": "vqa"}
            rows[split].append({**row, "answer": [answer] * _ANNOTATORS})
            words |= {*clean_caption(question, 40).split(), *answer.split()}
            answers.add(answer)
    for split, entries in rows.items():
        (out / f"vqa_{split}.json").write_text(json.dumps(entries))
        counts[split] = len(entries)
    (out / "answer_list.json").write_text(json.dumps(sorted(answers)))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (out / "vocab.txt").write_text("".join(f"{word}\n" for word in (*special, *sorted(words))))
    return counts


def run(runs: Path, steps: int, extra: list[str]) -> dict[str, Any]:
    """Convert, train and score; the content of metrics.json."""
    data = package_data()
    counts = convert(data, runs / "data")
    print(f"questions: {counts}")
    vocabulary = len((runs / "data" / "vocab.txt").read_text().splitlines())
    files = [
        f"data.annotations={runs}/data/vqa_train.json",
        f"data.eval_annotations={runs}/data/vqa_val.json",
        f"data.test_annotations=test={runs}/data/vqa_test.json",
        f"data.answer_list={runs}/data/answer_list.json",
        f"data.vocab_file={runs}/data/vocab.txt",
        f"data.image_root={data}",
        f"model.text.vocab_size={vocabulary}",
    ]
    engine = ["engine.kind=local", "engine.momentum_storage=dense", "train.micro_batch_size=64"]
    length = [f"train.max_steps={steps}", f"train.save_every={max(1, steps // 3)}", "train.epochs=1000"]
    arguments = ["train", "--recipe", "scenes_vqa", "--output", str(runs / "vqa")]
    if command_line([*arguments, *files, *engine, *length, *extra]) != 0:
        raise SystemExit("the training did not end well")
    return score(Request(runs / "vqa"), runs / "vqa", torch.device("cpu"))


def main() -> None:
    """Run; `--record` writes the record beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/easy_vqa"))
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps of 64 questions")
    parser.add_argument("--record", action="store_true", help="write benchmarks/easy_vqa.json and .md")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    arguments = parser.parse_intermixed_args()
    record = run(arguments.runs, arguments.steps, arguments.overrides)
    row = {name.removeprefix("vqa/"): round(value, 2) for name, value in record["splits"]["test"].items()}
    print(row)
    if arguments.record:
        from benchmarks.record import write_record

        notes = [
            "Trained from scratch on the package's training questions; the checkpoint was chosen on held-out training pictures."
        ]
        write_record(
            Path(__file__).with_name("easy_vqa"), "easy-vqa", notes, [row], ["torch", PACKAGE], {"steps": arguments.steps}
        )


if __name__ == "__main__":
    main()
