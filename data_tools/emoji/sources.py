"""Fetches, checks and unpacks the five pinned npm packages of the emoji corpus.

Fetching calls the `npm` client (`npm pack`); no code of a package is ever executed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from albef_ds.common.errors import DataError, MachineError


@dataclass(frozen=True)
class Package:
    """An npm package: exact version, and the sha512 of its archive in base64 as npm publishes it."""

    name: str
    version: str
    sha512: str

    @property
    def folder(self) -> str:
        """Name of the folder for the unpacked package: npm's archive name."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}"


EMOJIBASE = Package(
    "emojibase-data", "17.0.0", "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA=="
)
NOTO = Package(
    "@iconify-json/noto",
    "1.2.9",
    "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
)
TWEMOJI = Package(
    "@iconify-json/twemoji",
    "1.2.5",
    "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)
PACKAGES = (EMOJIBASE, NOTO, TWEMOJI, FLUENT_FLAT, FLUENT_3D)


def fetch(folder: Path) -> None:
    """Downloads missing packages to `folder` with `npm pack`, checks and unpacks them. Raises UserError if any of it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if (folder / package.folder).is_dir():
            continue
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            wanted = f"{package.name}@{package.version}"
            try:
                subprocess.run(["npm", "pack", "--silent", wanted], cwd=scratch, check=True, capture_output=True, text=True)
            except FileNotFoundError:
                raise MachineError("npm is not installed: install Node.js, or unpack the packages by hand") from None
            except subprocess.CalledProcessError as error:
                reason = [f"exit code {error.returncode}", *(error.stderr or error.stdout).strip().splitlines()][-1]
                raise MachineError(f"npm pack {wanted} failed ({reason}): check the network") from None
            unpack(Path(scratch) / f"{package.folder}.tgz", package, Path(scratch) / "unpacked")
            (Path(scratch) / "unpacked").rename(folder / package.folder)


def unpack(archive: Path, package: Package, folder: Path) -> None:
    """Unpacks the plain files of npm archive `archive` into the new `folder`.

    Raises DataError if the archive is not the pinned one, or a member's name leads outside the folder.
    """
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise DataError(f"{archive.name} is not the pinned {package.name} {package.version}: fetch it again")
    with tarfile.open(archive, "r:gz") as members:
        for member in members:
            parts = Path(member.name).parts[1:]  # the first is the archive's own folder
            if not member.isfile():
                continue
            if not parts or ".." in parts or Path(member.name).is_absolute():
                raise DataError(f"{archive.name} holds a member outside its folder: do not use it")
            content = members.extractfile(member)
            assert content is not None
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())


def locate(folder: Path) -> dict[str, Path]:
    """Maps package names to unpacked folders in `folder`. Raises DataError if a package is missing or of another version."""
    found = {}
    for package in PACKAGES:
        path = folder / package.folder
        try:
            about = json.loads((path / "package.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise DataError(f"{path} holds no unpacked {package.name} {package.version}: fetch it first") from None
        if (about.get("name"), about.get("version")) != (package.name, package.version):
            other = f"{about.get('name')} {about.get('version')}"
            raise DataError(f"{path} is {other}, not {package.name} {package.version}: fetch it first")
        found[package.name] = path
    return found
