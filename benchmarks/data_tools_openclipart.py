"""Runs the whole chain on Debian's openclipart, a real and dirty corpus, with one command, and checks every byte.

apt-get download openclipart-png openclipart-svg && for p in *.deb; do dpkg-deb -x $p tree; done
python -m benchmarks.data_tools_openclipart --tree tree --work FOLDER --out benchmarks/data_tools_openclipart
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from benchmarks.record import record_parser, write_record
from data_tools.cli import main as albef_data
from data_tools.execution.stage_folder import load_stage

IMAGES = "usr/share/openclipart/png"


def main() -> None:
    """Builds, checks and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--tree", type=Path, required=True, help="folder the two packages were unpacked in")
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    start = time.perf_counter()
    command = ["build", "--source", f"openclipart=openclipart:{args.tree / IMAGES}", "--set", "max_pictures=50"]
    command += ["--samples-per-shard", "1000", "--chunk-rows", "500"]
    command += ["--work", str(args.work), "--out", str(args.work / "corpus")]
    if albef_data(command) != 0 or albef_data(["verify", str(args.work / "corpus"), "--decode"]) != 0:
        raise SystemExit("the corpus could not be built or does not verify")
    wall = time.perf_counter() - start
    summary = load_stage(args.work, "dedup").summary
    plan = load_stage(args.work, "plan").summary
    rows = [
        {"reason": reason, "pictures": count["pictures"], "captions": count["captions"]}
        for reason, count in plan["counts"].items()
        if count["pictures"] or count["captions"]
    ]
    rows.append({"reason": "kept", "pictures": plan["num_samples"], "captions": sum(plan["kept_captions"].values())})
    figures = {name.replace("_", " "): value for name, value in summary.items() if isinstance(value, int)}
    notes = [f"`albef-data build` and `albef-data verify --decode`: {wall:.0f} s of wall-clock, two workers.", ""]
    notes += [f"- {name}: {value:,}" for name, value in figures.items()]
    write_record(args.out, "openclipart with one command", notes, rows, ["numpy", "pillow", "pyarrow"], {"figures": figures})


if __name__ == "__main__":
    main()
