"""Reads the site file (slurm/site.env.example): NAME=value lines that the batch scripts source and `albef-ds submit` uses."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from albef_ds.common.errors import MachineError

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


@dataclass(frozen=True)
class Site:
    """Settings of the cluster. `values` are as written in the file; `path` is None without a file."""

    path: Path | None = None
    values: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str:
        """Returns a value, '' if it is not set."""
        return self.values.get(name, "")

    @classmethod
    def load(cls, path: Path) -> Site:
        """Reads a site file. Nothing in it is executed or expanded here.

        Raises:
            MachineError: the file is missing, or a line is not NAME=value.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MachineError(f"{path} cannot be read ({error}): copy slurm/site.env.example to it") from None
        values: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            try:
                words = shlex.split(match.group(2), comments=True) if match else None
            except ValueError:
                words = None
            if match is None or words is None or len(words) > 1:
                raise MachineError(f"{path} line {number} is not NAME=value: quote a value that has spaces")
            values[match.group(1)] = words[0] if words else ""
        return cls(path.absolute(), values)

    def sbatch_options(self) -> list[str]:
        """Returns partition, account, quality of service and further sbatch options of the site."""
        named = (("--partition", "ALBEF_PARTITION"), ("--account", "ALBEF_ACCOUNT"), ("--qos", "ALBEF_QOS"))
        options = [f"{option}={self.get(name)}" for option, name in named if self.get(name)]
        return [*options, *shlex.split(self.get("ALBEF_SBATCH_OPTIONS"))]
