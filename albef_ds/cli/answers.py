"""`albef-ds answers`: builds from training questions the list of answers that VQA ranks."""

from __future__ import annotations

import json
from pathlib import Path

from albef_ds.cli.arguments import CommandParser, naming, whole_number
from albef_ds.cli.progress_bar import waiting
from albef_ds.common.atomic_files import check_target, write_output

EXAMPLES = """\
  from the official files
      albef-ds answers ANSWERS.json v2_OpenEnded_mscoco_train2014_questions.json+v2_mscoco_train2014_annotations.json
  from released lists, rarer answers too
      albef-ds answers ANSWERS.json vqa_train.json vqa_val.json --min-count 3"""


def main(argv: list[str]) -> int:
    """Builds the list. Raises `UserError` if a file cannot be used."""
    command = CommandParser("answers", "Build the list of answers that VQA ranks: the frequent ones, normalised.", EXAMPLES)
    command.add_argument("output", type=Path, metavar="OUT", help="the JSON list to write")
    command.add_argument(
        "questions", nargs="+", metavar="FILE", help="training questions; official ones as QUESTIONS+ANNOTATIONS"
    )
    command.add_argument("--min-count", type=whole_number(1), metavar="N", default=9, help="fewest questions with the answer (9)")
    arguments = command.parse_args(argv)
    check_target(arguments.output)
    from albef_ds.data.annotations.vqa import build_answer_list, read_vqa  # start-up time

    records = []
    with waiting("reading the questions"):
        for setting in arguments.questions:
            questions, _, answers = setting.partition("+")
            records += read_vqa(Path(questions), Path(answers) if answers else None)
        with naming("--min-count"):
            found = build_answer_list(records, arguments.min_count)
    write_output(arguments.output, json.dumps(found) + "\n")
    print(f"{len(found)} answers of {len(records)} questions in {arguments.output}")
    return 0
