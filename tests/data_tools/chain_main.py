"""Runs a small chain in a process of its own, for tests that kill it: `python -m tests.data_tools.chain_main RAW WORK OUT`."""

from __future__ import annotations

import sys

from data_tools.cli import main

if __name__ == "__main__":
    raw, work, out = sys.argv[1:4]
    options = ["--samples-per-shard", "5", "--chunk-rows", "4", "--workers", "2"]
    sys.exit(main(["build", "--source", f"raw=folder:{raw}", "--work", work, "--out", out, *options]))
