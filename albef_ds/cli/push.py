"""`albef-ds push`: uploads a model to the Hugging Face Hub, as a folder of safetensors with its card and lineage."""

from __future__ import annotations

from albef_ds.cli.arguments import CommandParser
from albef_ds.cli.progress_bar import counting

EXAMPLES = """\
  a run's newest checkpoint as the model hf://organisation/albef (after `hf auth login`)
      albef-ds push runs/retrieval_coco hf://organisation/albef --private
  use it
      albef-ds search --model hf://organisation/albef --images photos --text "a dog on a beach"

The student's weights, the settings, the vocabulary, the tokenizer and a card are uploaded; no optimizer state and no data."""


def main(argv: list[str]) -> int:
    """Uploads the model and prints its address. Raises `UserError` if it cannot be read or uploaded."""
    command = CommandParser("push", "Upload a model to the Hugging Face Hub.", EXAMPLES)
    command.add_argument("model", metavar="MODEL", help="a run, checkpoint, model folder or file")
    command.add_argument("address", metavar="hf://ORGANISATION/NAME", help="the repository; @BRANCH for another branch than main")
    command.add_argument("--private", action="store_true", help="a new repository is private")
    command.add_argument("--message", metavar="TEXT", default="Upload by albef-ds push", help="message of the commit")
    arguments = command.parse_args(argv)
    from albef_ds.inference.hub import address_of, push  # start-up time

    address = address_of(arguments.address)
    with counting("writing the model") as progress:  # the upload is shown by huggingface_hub
        commit = push(arguments.model, address, private=arguments.private, message=arguments.message, progress=progress)
    print(f"{address}: {commit}")
    return 0
