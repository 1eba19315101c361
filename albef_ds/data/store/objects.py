"""Reads and writes the objects below a URL, with retries; errors name the object and never hold credentials.

Requests go through fsspec, whose packages take credentials from the environment (`AWS_ACCESS_KEY_ID`, `~/.aws`, roles). This
module neither knows the shard format nor keeps what it read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from albef_ds.common.errors import ConfigError, DataError, MachineError
from albef_ds.common.urls import has_credentials, without_credentials

T = TypeVar("T")

ATTEMPTS = 8
"""Requests for one range before the object is given up; the pauses between them add up to about half a minute."""
FIRST_PAUSE = 0.25
"""Seconds before the second attempt; every further pause is twice as long, with up to a quarter more or less at random."""
CONNECTIONS = 32
"""Connections per process to one store."""
_TIMEOUT = 60.0
"""Seconds for one request. A slower one counts as failed, so a larger range must not be asked for at once."""
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
_PACKAGES |= {"http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub"}
_EXTRAS = {"s3fs": "s3", "gcsfs": "gcs", "adlfs": "azure", "aiohttp": "http"}
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_SECRET_VARIABLE = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|CONNECTION_STRING|SAS", re.IGNORECASE)


class Store:
    """The objects whose names are below `url`. Picklable, and usable after a fork: every process makes its own connections.

    A request is given up after `attempts` failures.

    Raises:
        ConfigError: `url` holds credentials, or is of a kind that fsspec does not know.
        MachineError: the package for this kind of URL is not installed.
    """

    def __init__(self, url: str, attempts: int = 0) -> None:
        check_url(url)
        self.url, self._attempts = url.rstrip("/"), attempts or ATTEMPTS
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._opened: tuple[int, Any, str] | None = None
        self._system()

    def address(self, name: str) -> str:
        """Returns the URL of object `name`."""
        return f"{self.url}/{name}".rstrip("/")

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Returns the bytes [`start`, `end`) of object `name`, or all of it.

        Raises:
            DataError: it is missing or refused, or no attempt gave all the bytes.
        """

        def request(system: Any, path: str) -> bytes:
            content = _read(system, path, start, end)
            if end is not None and start is not None and len(content) != end - start:
                raise OSError(errno.EIO, f"{len(content)} bytes instead of {end - start}")
            return content

        return self.attempts(name, "read", request)

    def sizes(self) -> dict[str, int] | None:
        """Returns the size of every object directly below the URL; None if the store does not list objects (web servers).

        Raises:
            DataError: no attempt succeeded.
        """
        if urlsplit(self.url).scheme in ("http", "https"):
            return None

        def request(system: Any, path: str) -> dict[str, int] | None:
            try:
                found = system.ls(path, detail=True, refresh=True)
            except FileNotFoundError:
                return {}
            except PermissionError:
                return None  # reading may be allowed where listing is not
            return {entry["name"].rpartition("/")[2]: int(entry["size"] or 0) for entry in found if entry["type"] == "file"}

        return self.attempts("", "listed", request)

    def folders(self) -> list[str]:
        """Returns the names before a slash of the objects below the URL, sorted. Raises DataError as `sizes`."""

        def request(system: Any, path: str) -> list[str]:
            try:
                found = system.ls(path, detail=True, refresh=True)
            except FileNotFoundError:
                return []
            return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "directory")

        return self.attempts("", "listed", request)

    def put(self, name: str, path: Path) -> None:
        """Uploads the file at `path` as object `name`, which appears whole or not at all. Raises DataError."""
        size = path.stat().st_size

        def request(system: Any, target: str) -> None:
            # One process writes an object: an unfinished upload of its name is that of a killed process or a failed attempt.
            abort_uploads(system, target, target)
            system.put_file(str(path), target)
            system.invalidate_cache()
            if (found := system.info(target)["size"]) != size:
                raise OSError(f"{found} bytes arrived of {size}")

        self.attempts(name, "written", request)

    def put_bytes(self, name: str, content: bytes) -> None:
        """Writes object `name`. Raises DataError."""
        self.attempts(name, "written", lambda system, target: system.pipe_file(target, content))

    def get(self, name: str, path: Path) -> None:
        """Downloads object `name` to `path`, if it is there. Raises DataError."""

        def request(system: Any, source: str) -> None:
            path.unlink(missing_ok=True)
            if system.exists(source):
                system.get_file(source, str(path))

        self.attempts(name, "read", request)

    def remove(self, name: str) -> None:
        """Removes object `name`, if it is there. Raises DataError."""

        def request(system: Any, target: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(target)

        self.attempts(name, "removed", request)

    def attempts(self, name: str, verb: str, request: Callable[[Any, str], T]) -> T:
        """Returns `request(file system, path of object name)`, repeated after failures with longer and longer pauses.

        Raises:
            DataError: the object is missing or refused, or every attempt failed; `verb` is what could not be done.
        """
        began, problem = time.monotonic(), ""
        for attempt in range(self._attempts):
            if attempt and self._stop.wait(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)):
                break
            system, root = self._system()
            try:
                return request(system, f"{root.rstrip('/')}/{name}".rstrip("/"))
            except _FINAL as error:
                raise DataError(f"{self.address(name)} {_refusal(error)}") from None
            except Exception as error:  # every protocol's package has errors of its own
                problem = public_text(error)
                if type(error).__name__ in _NO_CREDENTIALS:
                    fix = "put credentials into the environment"
                    raise DataError(f"{self.address(name)} cannot be {verb} ({problem}): {fix}") from None
        seconds = time.monotonic() - began
        raise DataError(
            f"{self.address(name)} cannot be {verb} ({self._attempts} attempts in {seconds:.0f} s, the last: {problem}): "
            "check the store and the network, then continue"
        )

    def close(self) -> None:
        """Ends pauses between attempts, so that threads that wait for the store end soon."""
        self._stop.set()

    def _system(self) -> tuple[Any, str]:
        """Returns this process's file system, and the path of `url` in it."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), *open_system(self.url))
            return self._opened[1], self._opened[2]

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "attempts": self._attempts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.url, self._attempts = state["url"], state["attempts"]
        self._stop, self._lock, self._opened = threading.Event(), threading.Lock(), None


def abort_uploads(system: Any, prefix: str, only: str = "") -> None:
    """Removes the parts of unfinished uploads of all objects below `prefix`, or of object `only`. S3 alone keeps such parts."""
    if not hasattr(system, "call_s3"):
        return
    bucket, _, key = prefix.partition("/")
    with contextlib.suppress(PermissionError):  # an account may write objects and not list uploads
        found = system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
        for upload in found.get("Uploads", []):
            if not only or f"{bucket}/{upload['Key']}" == only:
                system.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def _read(system: Any, path: str, start: int | None, end: int | None) -> bytes:
    if getattr(system, "async_impl", False) and not system.asynchronous:
        from fsspec.asyn import sync  # start-up time: local corpora do not need it

        return bytes(sync(system.loop, system._cat_file, path, start=start, end=end, timeout=_TIMEOUT))
    return bytes(system.cat_file(path, start=start, end=end))


def check_url(url: str) -> None:
    """Raises `ConfigError`, without naming them, if `url` holds credentials, which would be stored with the settings."""
    if has_credentials(url):
        raise ConfigError(
            f"{without_credentials(url)} was given with a user, a password or a query: URLs are stored with a run, "
            "so put credentials into the environment"
        )


def open_system(url: str) -> tuple[Any, str]:
    """Returns fsspec's file system for `url`, which repeats no request by itself and keeps no listings, and the path in it.

    Raises:
        ConfigError: fsspec does not know this kind of URL.
        MachineError: its package is not installed.
    """
    import fsspec  # start-up time: local corpora do not need it

    scheme = urlsplit(url).scheme
    options: dict[str, Any] = {}
    if scheme not in ("http", "https"):
        options["use_listings_cache"] = False
    if scheme in ("s3", "s3a"):
        limits = {"connect_timeout": 10, "read_timeout": 30, "max_pool_connections": CONNECTIONS}
        options["config_kwargs"] = limits | {"retries": {"total_max_attempts": 1}}
    try:
        system, root = fsspec.core.url_to_fs(url, **options)
    except ImportError:
        package = _PACKAGES.get(scheme, "fsspec")
        install = f"'albef-ds[{_EXTRAS[package]}]'" if package in _EXTRAS else package
        raise MachineError(f"{scheme}:// needs {package}, which is not installed: pip install {install}") from None
    except ValueError:
        raise ConfigError(f"{url} is not a URL that fsspec knows: give s3://, gs://, az://, https:// or hf://") from None
    if hasattr(system, "retries"):
        system.retries = 1
    return system, str(root)


def _refusal(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "may not be read with these credentials: check the environment and the rights of the account"
    return "does not exist: check the address, or copy the object there again"


def public_text(error: BaseException) -> str:
    """Returns the class and the first line of `error` without credentials: no user, query or secret of the environment."""
    lines = str(error).splitlines() or [""]
    text = re.sub(r"://[^/@\s]*@", "://", lines[0])
    text = re.sub(r"\?[^\s'\"]*", "", text)[:300]
    for name, value in os.environ.items():
        if len(value) >= 4 and _SECRET_VARIABLE.search(name):
            text = text.replace(value, "***")
    number = getattr(error, "errno", None)
    name = errno.errorcode.get(number, "") if isinstance(number, int) else ""
    with contextlib.suppress(TypeError, KeyError, AttributeError):  # botocore's errors carry the store's code
        name = str(error.response["Error"]["Code"])  # type: ignore[attr-defined]
    return ": ".join(part for part in (type(error).__name__, name, text) if part)
