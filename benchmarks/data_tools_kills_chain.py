"""Runs `albef-data` with a log line at the begin and end of each task, for `benchmarks.data_tools_kills`.

python -m benchmarks.data_tools_kills_chain LOG build --source ... --work ... --out ...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.cli import main
from data_tools.execution.executors import run_tasks
from data_tools.stages import scan, write_shards


@dataclass(frozen=True)
class Logged:
    """A picklable task function that logs when it begins and ends."""

    function: Callable[[Any], Any]
    log: Path

    def __call__(self, task: Any) -> Any:
        self._say("begin")
        result = self.function(task)
        self._say("end")
        return result

    def _say(self, word: str) -> None:
        file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.write(file, f"{word}\n".encode())
        os.close(file)


def logged_tasks(function: Callable[[Any], Any], *arguments: Any, **settings: Any) -> list[Any]:
    """`run_tasks` with a logged function."""
    return run_tasks(Logged(function, Path(sys.argv[1]).resolve()), *arguments, **settings)


if __name__ == "__main__":
    scan.run_tasks = write_shards.run_tasks = logged_tasks  # type: ignore[assignment]
    sys.exit(main(sys.argv[2:]))
