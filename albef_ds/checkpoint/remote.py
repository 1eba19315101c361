"""Copies of finished checkpoints in an object store: uploaded in the background, complete or absent, and fetched to resume.

    URL/step-0012000/    the files of the checkpoint; `complete.json` comes last and is removed first

One rank of each node uploads a share of the files in a thread. A store that fails or hangs costs no step: the run lives on
its local checkpoints.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import xxhash

from albef_ds.checkpoint.complete import read_marker
from albef_ds.checkpoint.retention import best_step, keep
from albef_ds.common import comm
from albef_ds.common.atomic_files import atomic_path
from albef_ds.common.errors import ConfigError, DataError
from albef_ds.common.run_files import MARKER_NAME, step_folder, step_of
from albef_ds.config.schema import TrainConfig
from albef_ds.data.store.objects import Store, abort_uploads, public_text

_RECEIPT = "arrived-{}.tmp"
_FAILED = b"failed "
_POLL = 1.0
_OTHERS = 1800.0
"""Seconds that rank 0 waits for the files of other nodes."""


def remote_steps(url: str) -> list[int]:
    """Steps of the complete checkpoints below `url`, ascending. Raises DataError if the store cannot be listed."""
    steps = [step for name in Store(url).folders() if (step := step_of(name)) is not None]
    return sorted(step for step in steps if MARKER_NAME in (Store(f"{url}/{step_folder(step)}").sizes() or {}))


def check_unused(url: str) -> None:
    """Raises ConfigError if there are checkpoints below `url`, which a new run would replace, and DataError as `remote_steps`."""
    if steps := remote_steps(url):
        raise ConfigError(
            f"train.checkpoint_store {url} holds checkpoints to step {steps[-1]}: resume, overwrite or give another"
        )


def forget(url: str) -> None:
    """Makes all copies below `url` incomplete, so that nobody resumes from them. Raises DataError as `remote_steps`."""
    for step in remote_steps(url):
        Store(f"{url}/{step_folder(step)}").remove(MARKER_NAME)


def fetch(url: str, step: int, root: Path) -> Path:
    """Downloads the checkpoint of `step` below `url` into the folder `root`; returns its folder, which is not checked yet.

    Raises:
        DataError: an object is missing or refused, or no attempt gave it.
        OSError: it cannot be written.
    """
    store, final = Store(f"{url}/{step_folder(step)}"), root / step_folder(step)
    root.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(final, ignore_errors=True)
    with atomic_path(final) as temporary:
        temporary.mkdir()
        for name in sorted(store.sizes() or {}):
            store.get(name, temporary / name)
    return final


class Uploads:
    """Uploads the checkpoints in the folder `root` below `train.checkpoint_store`. All ranks make one together."""

    def __init__(self, root: Path, train: TrainConfig) -> None:
        uploaders = [
            rank for rank, local in enumerate(comm.all_gather_objects(os.environ.get("LOCAL_RANK", "0"))) if local == "0"
        ]
        self._node = uploaders.index(comm.rank()) if comm.rank() in uploaders else None
        self._num_nodes = len(uploaders)
        self._root, self._train, self._url = root, train, train.checkpoint_store.rstrip("/")
        if self._node is not None:
            Store(self._url)  # a missing package is an error now, and not at the first checkpoint
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next: int | None = None
        self.step: int | None = None
        """The checkpoint that is being uploaded; its local files must stay."""
        self._news: list[str] = []

    def add(self, step: int) -> None:
        """Uploads the finished checkpoint of `step` when the one before has arrived; of several that wait, only the newest."""
        if self._node is None:
            return
        with self._lock:
            self._next = step
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoint upload", daemon=True)
                self._thread.start()

    @property
    def busy(self) -> bool:
        """True while something is to be uploaded by this rank."""
        return self._thread is not None

    def news(self) -> list[str]:
        """Lines about checkpoints that have arrived or not, each once."""
        with self._lock:
            lines, self._news = self._news, []
        return lines

    def wait(self, seconds: float | None = None) -> None:
        """Returns when nothing is left to upload, or after `seconds`: then the copy stays incomplete, and `news` says so."""
        thread = self._thread
        if thread is None:
            return
        thread.join(seconds)
        if thread.is_alive():
            with self._lock:
                step = self._next or self.step
                self._news.append(f"the copy of step {step} to {self._url} is not complete after {seconds:.0f} s: it is left so")

    def _run(self) -> None:
        while True:
            with self._lock:
                self.step, self._next = self._next, None
                if self.step is None:
                    self._thread = None
                    return
            try:
                self._upload(self.step)
                what = "its share" if self._node else "the checkpoint"
                line = f"copied {what} of step {self.step} to {self._url}"
            except Exception as error:  # whatever the store's packages do, the run goes on
                reason = str(error) if isinstance(error, DataError) else public_text(error)
                line = f"the checkpoint of step {self.step} was not copied to {self._url}: {reason}; the run continues"
            with self._lock:
                self._news.append(line)

    def _upload(self, step: int) -> None:
        folder = self._root / step_folder(step)
        store, entries = Store(f"{self._url}/{step_folder(step)}"), read_marker(folder)
        content = (folder / MARKER_NAME).read_bytes()
        if self._node == 0 and MARKER_NAME in (store.sizes() or {}):
            store.remove(MARKER_NAME)
        receipts = [_RECEIPT.format(node) for node in range(1, self._num_nodes)]
        wanted = xxhash.xxh3_64_hexdigest(content).encode()
        try:
            for name in sorted(entries)[self._node or 0 :: self._num_nodes]:
                store.put(name, folder / name)
        except Exception:
            if self._node:
                store.put_bytes(receipts[self._node - 1], _FAILED + wanted)  # the first node need not wait
            raise
        if self._node:
            store.put_bytes(receipts[self._node - 1], wanted)
            return
        self._wait_for_others(store, receipts, wanted, {name: entry.bytes for name, entry in entries.items()})
        store.put_bytes(MARKER_NAME, content)
        for name in receipts:
            store.remove(name)
        self._tidy(step)

    def _wait_for_others(self, store: Store, receipts: list[str], wanted: bytes, sizes: dict[str, int]) -> None:
        """Returns when all nodes have uploaded their files, and every file is there in its size."""
        since = time.monotonic()
        while receipts:
            found = store.sizes() or {}
            said = [store.read(name) for name in receipts if name in found]
            if said == [wanted] * len(receipts) and found.items() >= sizes.items():
                return
            if _FAILED + wanted in said:
                raise DataError(f"{store.url} lacks the files of another node: check the access of all nodes to the store")
            if time.monotonic() - since > _OTHERS:
                raise DataError(f"{store.url} has no files of other nodes after {_OTHERS:.0f} s: check their access to the store")
            time.sleep(_POLL)

    def _tidy(self, step: int) -> None:
        """Removes copies that need not be kept, incomplete ones, and those of later steps, which a run has gone back from.

        Other nodes may be ahead, so a copy of a later step only becomes incomplete where there are any.
        """
        store, train = Store(self._url), self._train
        complete = remote_steps(self._url)
        best = best_step(self._root, train.keep_best) if train.keep_best else None
        wanted = keep([one for one in complete if one <= step], last=train.keep_last, every=train.keep_every, best=best)
        for folder in store.folders():
            number = step_of(folder)
            if number is None or number in wanted:
                continue
            inside = Store(f"{self._url}/{folder}")
            if number > step and self._num_nodes > 1:
                inside.remove(MARKER_NAME)
                continue
            for name in sorted(inside.sizes() or {}, key=lambda name: name != MARKER_NAME):
                inside.remove(name)
            inside.attempts("", "cleaned", lambda system, path: abort_uploads(system, f"{path}/"))
