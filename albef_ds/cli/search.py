"""`albef-ds search`: ranks the images of a folder by a text (ITC for all, ITM for the best) and writes a page."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef_ds.cli.arguments import CommandParser, add_overrides, naming, whole_number
from albef_ds.cli.progress_bar import Bars, waiting
from albef_ds.cli.search_options import APPROXIMATE_HELP, IMAGES_HELP, approximate_above
from albef_ds.common.atomic_files import check_target
from albef_ds.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from albef_ds.inference.model import AlbefModel
    from albef_ds.inference.search import Hit, Index

EXAMPLES = """\
  the first call indexes the folder, later calls only its new images
      albef-ds search --model runs/retrieval_coco --images photos --text "a dog on a beach"
  show more images, re-rank more of them by ITM
      albef-ds search --model runs/retrieval_coco --images photos --text "a dog on a beach" --top 50 --rerank 256
  copy what is found
      albef-ds search --model runs/retrieval_coco --images photos --text "a dog" --paths-only | xargs -d '\\n' cp -t dogs
  the images that a file lists, or those of a corpus
      albef-ds search --model albef --images photos.txt --text "a dog"
      albef-ds search --model albef --images corpus/manifest.json --text "a dog"
  many texts, one JSON object a line
      albef-ds search --model runs/retrieval_coco --images photos --texts queries.txt --json-lines"""


def main(argv: list[str]) -> int:
    """Prints the ranking and writes the page. Raises `UserError` if the model or folder cannot be used."""
    command = CommandParser("search", "Rank a folder of images by a text.", EXAMPLES)
    command.add_argument("--model", required=True, metavar="PATH", help="a run, checkpoint or file with ITC and ITM")
    command.add_argument("--images", required=True, type=Path, metavar="FOLDER", help=IMAGES_HELP)
    command.add_argument("--text", action="append", default=[], metavar="TEXT", help="what to look for; may be given again")
    command.add_argument("--texts", type=Path, metavar="FILE", help="more texts, one a line")
    command.add_argument("--top", type=whole_number(1), default=12, metavar="N", help="images shown (12)")
    command.add_argument("--rerank", type=whole_number(0), default=64, metavar="N", help="images re-ranked by ITM (64)")
    command.add_argument("--output", type=Path, metavar="FILE", help="the page, for one text (search.html)")
    command.add_argument("--index", type=Path, metavar="FILE", help="file of features (FOLDER/.albef-index)")
    command.add_argument("--approximate-above", type=whole_number(0), metavar="N", help=APPROXIMATE_HELP)
    command.add_argument(
        "--keep-mb", type=whole_number(0), default=128, metavar="N", help="MiB of judged images kept for later searches (128)"
    )
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON object")
    form.add_argument("--json-lines", action="store_true", help="print a JSON object a line for each text; no page")
    form.add_argument("--paths-only", action="store_true", help="print the paths of the images, one a line; no page")
    add_overrides(command, "settings that a released file does not hold")
    arguments = command.parse_intermixed_args(argv)
    texts = _texts(arguments)
    page = _page(arguments, len(texts))
    from albef_ds.inference.index.store import check_is_index  # start-up time
    from albef_ds.inference.model import load
    from albef_ds.inference.search import index_images, kept_tokens, search, with_approximate, write_page
    from albef_ds.inference.sources import source_of

    above = approximate_above(arguments.approximate_above)
    with naming("--images"):
        source = source_of(arguments.images)
    with naming("--index"):
        check_target(arguments.index or source.index)
        if arguments.index is not None:
            check_is_index(arguments.index)
    with waiting("reading the model"):
        model = load(arguments.model, device=arguments.device, overrides=arguments.overrides)
    model.encode_text(texts)  # report problems of model or texts before all images are read
    bars = Bars()
    index = index_images(model, source, arguments.index, bars)
    if above is not None:
        index = with_approximate(index, above, bars)
    recall = _recall(model, index, texts[0], max(arguments.top, arguments.rerank))
    kept = kept_tokens(model, index, arguments.keep_mb << 20)
    if not arguments.json:
        for path, reason in index.unreadable:
            print(f"left out: {path} ({reason})", file=sys.stderr if arguments.json_lines or arguments.paths_only else sys.stdout)
    if not (arguments.json or arguments.json_lines or arguments.paths_only):
        print(f"{len(index.paths)} images, {index.added} of them new in the index{recall and f'; {recall}'}")
    elif recall:
        print(recall, file=sys.stderr)
    for text in texts:
        hits = search(model, index, text, top=arguments.top, rerank=arguments.rerank, kept=kept, progress=bars)
        if page is not None:
            write_page(page, text, hits, model.picture)
        if arguments.json:
            unreadable = [{"path": path, "reason": reason} for path, reason in index.unreadable]
            counts = {"pictures": len(index.paths), "new": index.added}
            print(json.dumps({**counts, "unreadable": unreadable, "hits": _found(hits), "page": str(page)}, indent=1))
        elif arguments.json_lines:
            print(json.dumps({"text": text, "hits": _found(hits)}))
        else:
            _print(hits, text if len(texts) > 1 else "", paths_only=arguments.paths_only)
    if page is not None and not arguments.json:
        print(f"written: {page}")
    return 0


def _texts(arguments: argparse.Namespace) -> list[str]:
    texts: list[str] = list(arguments.text)
    if arguments.texts is not None:
        try:
            lines = arguments.texts.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"--texts {arguments.texts} cannot be read ({error}): give a text file with a query on each line"
            ) from None
        texts += [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ConfigError("no text is given: add --text TEXT, or --texts FILE with a query on each line")
    if len(texts) > 1 and (arguments.json or arguments.paths_only):
        raise ConfigError(f"{len(texts)} texts are given, but --json and --paths-only are for one: use --json-lines")
    return texts


def _recall(model: AlbefModel, index: Index, text: str, k: int) -> str:
    """What approximate search finds of what exact search finds, for images and for one of the texts; empty for exact search."""
    if index.approximate is None:
        return ""
    from albef_ds.inference.index.approximate import recall  # start-up time
    from albef_ds.inference.index.nearest import nearest

    query = model.encode_text(text).float().cpu()
    measured = recall(index.nearest(query, k), nearest(index.table, query, k))
    return (
        f"approximate search finds {index.approximate.recall:.1%} of the most similar images (measured with images as queries) "
        f"and {measured:.1%} of the {k} for {text!r}"
    )


def _page(arguments: argparse.Namespace, texts: int) -> Path | None:
    """The page to write; None if there is none."""
    if texts > 1 or arguments.json_lines or arguments.paths_only:
        if arguments.output is not None:
            raise ConfigError("--output is the page of one text: leave it out with several texts, --json-lines and --paths-only")
        return None
    page: Path = arguments.output or Path("search.html")
    check_target(page)
    return page


def _found(hits: list[Hit]) -> list[dict[str, Any]]:
    return [{"path": str(hit.path), "similarity": hit.similarity, "match": hit.match} for hit in hits]


def _print(hits: list[Hit], heading: str, *, paths_only: bool) -> None:
    if heading:
        print(f"{heading}:")
    for number, hit in enumerate(hits, start=1):
        match = "" if hit.match is None else f", match {hit.match:.3f}"
        print(hit.path if paths_only else f"{number:3d}. {hit.path}  similarity {hit.similarity:.3f}{match}")
