"""`albef-ds ask`: an answer to a question about a picture, from a model fine-tuned on VQA."""

from __future__ import annotations

from pathlib import Path

from albef_ds.cli.arguments import CommandParser

EXAMPLES = """\
  written freely
      albef-ds ask --model runs/vqa --image kitchen.jpg --question "how many cups are on the table"
  chosen from a list
      albef-ds ask --model runs/vqa --image kitchen.jpg --question "what color is the cup" --answers answer_list.json"""


def main(argv: list[str]) -> int:
    """Print the answer. Raises `ConfigError` for a model, picture or list that cannot be used."""
    command = CommandParser("ask", "Answer questions about a picture.", EXAMPLES)
    command.add_argument("--model", required=True, metavar="PATH", help="a run, checkpoint or file of a VQA model")
    command.add_argument("--image", required=True, metavar="FILE", help="the picture")
    command.add_argument("--question", required=True, action="append", metavar="TEXT", help="may be given again")
    command.add_argument("--answers", metavar="FILE", type=Path, help="JSON list to choose from; without it answers are written")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    arguments = command.parse_args(argv)
    from albef_ds.data.annotations.vqa import read_answer_list
    from albef_ds.interface import load

    answers = read_answer_list(arguments.answers) if arguments.answers else None
    model = load(arguments.model, device=arguments.device)
    for question, answer in zip(arguments.question, model.answer(arguments.image, arguments.question, answers), strict=True):
        print(answer if len(arguments.question) == 1 else f"{question}: {answer}")
    return 0
