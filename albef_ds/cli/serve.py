"""`albef-ds serve`: a page and JSON endpoints to search folders of images with a model, to ground words and to ask."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from albef_ds.cli.arguments import CommandParser, add_overrides, naming, whole_number
from albef_ds.cli.progress_bar import waiting
from albef_ds.cli.search_options import APPROXIMATE_HELP, IMAGES_HELP, approximate_above
from albef_ds.common.atomic_files import write_output
from albef_ds.common.errors import ConfigError, MachineError

EXAMPLES = """\
  a page for the photos of a folder, at http://127.0.0.1:8017
      albef-ds serve --model runs/demo --images photos
  two folders, and a model that answers questions
      albef-ds serve --model albef --images photos --images scans --answers-by runs/vqa
  for other machines: who opens the page needs the token, which is made if the file does not exist
      albef-ds serve --model albef --images photos --host 0.0.0.0 --token-file token.txt

Ctrl-C ends it. New, changed and deleted files are noticed while it runs. docs/serving.md describes page, endpoints and safety."""
if TYPE_CHECKING:
    from albef_ds.inference.serving.service import Service

PORT = 8017
_SHORTEST = 16


def main(argv: list[str]) -> int:
    """Serves until Ctrl-C. Raises `UserError` if the model, a folder or the port cannot be used."""
    command = CommandParser("serve", "Search folders of images in the browser, ground words in them, and ask.", EXAMPLES)
    command.add_argument("--model", required=True, metavar="PATH", help="a run, checkpoint or file with ITC and ITM")
    command.add_argument(
        "--images", required=True, action="append", type=Path, metavar="FOLDER", help=IMAGES_HELP + "; may be given again"
    )
    command.add_argument("--answers-by", metavar="PATH", help="a run, checkpoint or file of a VQA model, which answers questions")
    command.add_argument("--port", type=whole_number(0), default=PORT, metavar="N", help=f"0: a free one ({PORT})")
    command.add_argument(
        "--host", default="127.0.0.1", metavar="NAME", help="address to listen on (127.0.0.1: this machine only)"
    )
    command.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that requests must carry")
    command.add_argument("--index", type=Path, metavar="FOLDER", help="keeps the features, for folders that cannot be written")
    command.add_argument("--approximate-above", type=whole_number(0), metavar="N", help=APPROXIMATE_HELP)
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    add_overrides(command, "settings that a released file does not hold")
    arguments = command.parse_intermixed_args(argv)
    _check_packages()
    if arguments.port > 65535:
        raise ConfigError(f"--port {arguments.port} is no port: give 0 to 65535")
    from albef_ds.inference.kinds import require  # start-up time
    from albef_ds.inference.model import load
    from albef_ds.inference.serving.gallery import Gallery, check_places
    from albef_ds.inference.serving.server import is_local, listen
    from albef_ds.inference.serving.service import Service

    token = "" if arguments.token_file is None else _token(arguments.token_file)
    if not token and not is_local(arguments.host):
        raise ConfigError(f"--host {arguments.host} lets other machines in: add --token-file FILE, or leave --host out")
    with naming("--images"):
        check_places(arguments.images)
    above = approximate_above(arguments.approximate_above)
    listener = listen(arguments.host, arguments.port)
    with listener:
        with waiting("reading the model"):
            model = load(arguments.model, device=arguments.device, overrides=arguments.overrides)
            require(model.config, "match")
            model.prepare_texts("a")  # a vocabulary that does not fit is reported now, not at the first search
            answering = None
            if arguments.answers_by:
                answering = load(arguments.answers_by, device=arguments.device)
                with naming("--answers-by"):
                    require(answering.config, "answer")
                    answering.prepare_texts("a", questions=True)
        with naming("--index"):
            gallery = Gallery(model, arguments.images, arguments.index, above)
        return _serve(Service(model, gallery, answering), listener, arguments.host, token)


def _check_packages() -> None:
    try:
        import fastapi  # noqa: F401 (optional package)
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MachineError(f"{error.name} is not installed: run `pip install albef-ds[serve]`") from None


def _token(path: Path) -> str:
    """The token in the file's first line; a new file gets a random one that only its owner can read."""
    try:
        if not path.exists():
            write_output(path, "")
            os.chmod(path, 0o600)
            path.write_text(secrets.token_urlsafe(24) + "\n", encoding="ascii")
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path} cannot be read ({error}): give another file") from None
    token = lines[0].strip() if lines else ""
    if len(token) < _SHORTEST or not all(mark.isalnum() or mark in "-_.~" for mark in token):
        raise ConfigError(
            f"--token-file {path} holds no token of {_SHORTEST} or more letters, digits and -_.~: "
            "name a file that does not exist, and one is made"
        )
    return token


def _serve(service: Service, listener: socket.socket, host: str, token: str) -> int:
    from albef_ds.inference.serving.app import application  # optional package
    from albef_ds.inference.serving.guard import Guard
    from albef_ds.inference.serving.server import is_local, names_of, server_of

    port = listener.getsockname()[1]
    # Names that other machines use are not known here; the token protects them.
    app = Guard(application(service), names_of(host, port) if is_local(host) else None, token)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    print(f"open {address}{f'?token={token}' if token else ''} in a browser (Ctrl-C ends)", flush=True)
    service.start()
    try:
        server_of(app).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises it again when it has closed everything
        print("albef-ds: ended", file=sys.stderr)
    finally:
        service.close()
    return 0
