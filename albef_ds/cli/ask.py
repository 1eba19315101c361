"""`albef-ds ask`: answers questions about an image with a model fine-tuned on VQA."""

from __future__ import annotations

import json
from pathlib import Path

from albef_ds.cli.arguments import CommandParser, add_overrides, whole_number
from albef_ds.cli.progress_bar import waiting

EXAMPLES = """\
  generate the answer
      albef-ds ask --model runs/vqa --image kitchen.jpg --question "how many cups are on the table"
  the five most probable answers with their probabilities
      albef-ds ask --model runs/vqa --image kitchen.jpg --question "what is on the table" --top 5
  choose it from a list
      albef-ds ask --model runs/vqa --image kitchen.jpg --question "what color is the cup" --answers answer_list.json"""


def main(argv: list[str]) -> int:
    """Prints the answers. Raises `UserError` if the model, image or list cannot be used."""
    command = CommandParser("ask", "Answer questions about an image.", EXAMPLES)
    command.add_argument("--model", required=True, metavar="PATH", help="a run, checkpoint or file of a VQA model")
    command.add_argument("--image", required=True, metavar="FILE", help="the image")
    command.add_argument("--question", required=True, action="append", metavar="TEXT", help="may be given again")
    command.add_argument(
        "--answers", metavar="FILE", type=Path, help="JSON list to choose from; without it answers are generated"
    )
    command.add_argument("--top", type=whole_number(1), metavar="N", help="the N most probable answers, with probabilities")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    command.add_argument("--json", action="store_true", help="print a JSON object of questions and answers")
    add_overrides(command, "settings that a released file does not hold")
    arguments = command.parse_intermixed_args(argv)
    from albef_ds.data.annotations.vqa import read_answer_list  # start-up time
    from albef_ds.inference.model import load

    answers = read_answer_list(arguments.answers) if arguments.answers else None
    with waiting("reading the model"):
        model = load(arguments.model, device=arguments.device, overrides=arguments.overrides)
    if arguments.top:
        with waiting("answering"):
            several = model.answers(arguments.image, arguments.question, answers, top=arguments.top)
        _print_several(dict(zip(arguments.question, several, strict=True)), as_json=arguments.json)
        return 0
    with waiting("answering"):
        found = model.answer(arguments.image, arguments.question, answers)
    if arguments.json:
        print(json.dumps(dict(zip(arguments.question, found, strict=True)), indent=1))
        return 0
    for question, answer in zip(arguments.question, found, strict=True):
        print(answer if len(arguments.question) == 1 else f"{question}: {answer}")
    return 0


def _print_several(found: dict[str, list[tuple[str, float]]], *, as_json: bool) -> None:
    """Prints the answers to each question with their probabilities."""
    if as_json:
        named = {
            question: [{"answer": answer, "probability": probability} for answer, probability in answers]
            for question, answers in found.items()
        }
        print(json.dumps(named, indent=1))
        return
    for question, answers in found.items():
        if len(found) > 1:
            print(f"{question}:")
        for answer, probability in answers:
            print(f"{probability:.3f}  {answer}")
