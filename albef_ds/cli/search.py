"""`albef-ds search`: ranks the images of a folder by a text (ITC for all, ITM for the best) and writes a page."""

from __future__ import annotations

import json
from pathlib import Path

from albef_ds.cli.arguments import CommandParser, add_overrides, whole_number
from albef_ds.cli.progress_bar import Bars, waiting
from albef_ds.common.atomic_files import check_target

EXAMPLES = """\
  the first call indexes the folder, later calls only its new images
      albef-ds search --model runs/retrieval_coco --images photos --text "a dog on a beach"
  show more images, re-rank more of them by ITM
      albef-ds search --model runs/retrieval_coco --images photos --text "a dog on a beach" --top 50 --rerank 256"""


def main(argv: list[str]) -> int:
    """Prints the ranking and writes the page. Raises `UserError` if the model or folder cannot be used."""
    command = CommandParser("search", "Rank a folder of images by a text.", EXAMPLES)
    command.add_argument("--model", required=True, metavar="PATH", help="a run, checkpoint or file with ITC and ITM")
    command.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="JPEG, PNG and WebP files, subfolders too")
    command.add_argument("--text", required=True, metavar="TEXT", help="what to look for")
    command.add_argument("--top", type=whole_number(1), default=12, metavar="N", help="images shown (12)")
    command.add_argument("--rerank", type=whole_number(0), default=64, metavar="N", help="images re-ranked by ITM (64)")
    command.add_argument("--output", type=Path, default=Path("search.html"), metavar="FILE", help="the page (search.html)")
    command.add_argument("--index", type=Path, metavar="FILE", help="file of features (FOLDER/.albef-index.safetensors)")
    command.add_argument(
        "--keep-mb", type=whole_number(0), default=128, metavar="N", help="MiB of judged images kept for later searches (128)"
    )
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    command.add_argument("--json", action="store_true", help="print a JSON object")
    add_overrides(command, "settings that a released file does not hold")
    arguments = command.parse_intermixed_args(argv)
    check_target(arguments.output)
    from albef_ds.inference.model import load  # start-up time
    from albef_ds.inference.search import index_folder, kept_tokens, search, write_page

    with waiting("reading the model"):
        model = load(arguments.model, device=arguments.device, overrides=arguments.overrides)
    model.encode_text(arguments.text)  # report problems of model or text before all images are read
    index = index_folder(model, arguments.images, arguments.index, Bars())
    kept = kept_tokens(model, index, arguments.keep_mb << 20)
    hits = search(model, index, arguments.text, top=arguments.top, rerank=arguments.rerank, kept=kept)
    write_page(arguments.output, arguments.text, hits, model.picture)
    if arguments.json:
        found = [{"path": str(hit.path), "similarity": hit.similarity, "match": hit.match} for hit in hits]
        unreadable = [{"path": path, "reason": reason} for path, reason in index.unreadable]
        counts = {"pictures": len(index.paths), "new": index.added}
        print(json.dumps({**counts, "unreadable": unreadable, "hits": found, "page": str(arguments.output)}, indent=1))
        return 0
    for path, reason in index.unreadable:
        print(f"left out: {path} ({reason})")
    print(f"{len(index.paths)} images, {index.added} of them new in the index")
    for number, hit in enumerate(hits, start=1):
        match = "" if hit.match is None else f", match {hit.match:.3f}"
        print(f"{number:3d}. {hit.path}  similarity {hit.similarity:.3f}{match}")
    print(f"written: {arguments.output}")
    return 0
