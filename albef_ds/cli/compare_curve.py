"""`albef-ds compare-curve`: compares a run's loss with the band of its recipe or with another run."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from albef_ds.cli.arguments import CommandParser
from albef_ds.common.errors import ConfigError
from albef_ds.common.exit_codes import CHECK_FAILED
from albef_ds.common.run_files import CONFIG_NAME
from albef_ds.config.files import load
from albef_ds.training.loss_band import Band, BandMonitor, band_of, largest_difference, make_band, read_curve

EXAMPLES = """\
  compare a run with the band of its recipe
      albef-ds compare-curve runs/demo
  with another run: the largest relative difference at shared steps
      albef-ds compare-curve runs/new --against runs/old --tolerance 0.001
  make a band from good runs, and use it
      albef-ds compare-curve runs/a runs/b --write-band band.json
      albef-ds compare-curve runs/c --against band.json

Exit codes: 0 within, 1 outside, 2 a user's mistake."""


def parser() -> CommandParser:
    """The arguments of `albef-ds compare-curve`."""
    command = CommandParser("compare-curve", "Compare a run's loss with a band or with another run.", EXAMPLES)
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run; several for --write-band")
    command.add_argument("--against", type=Path, metavar="RUN|BAND.json", help="default: the band of the run's recipe")
    command.add_argument("--loss", default="loss", metavar="NAME", help="logged number to compare (loss)")
    command.add_argument("--tolerance", type=float, default=0.02, metavar="SHARE", help="largest relative difference (0.02)")
    command.add_argument("--write-band", type=Path, metavar="FILE", help="write a band around the runs instead")
    command.add_argument("--margin", type=float, default=0.08, metavar="SHARE", help="margin of the band around the runs (0.08)")
    return command


def main(argv: list[str]) -> int:
    """Compares the curves and returns the exit code. Raises `ConfigError` for a user's mistake."""
    arguments = parser().parse_args(argv)
    if arguments.write_band is not None:
        return _write(arguments.runs, arguments.loss, arguments.margin, arguments.write_band)
    if len(arguments.runs) > 1:
        raise ConfigError("several runs make a band with --write-band: to compare two, use --against")
    [run] = arguments.runs
    curve, against = read_curve(run, arguments.loss), arguments.against
    if against is not None and (against.is_dir() or against.suffix == ".jsonl"):
        difference, point, shared = largest_difference(curve, read_curve(against, arguments.loss))
        print(f"{shared} log lines at the same steps: largest relative difference {difference:.3g}, at step {point.step}")
        return 0 if difference <= arguments.tolerance else CHECK_FAILED
    if against is None:
        recipe = load(run / CONFIG_NAME).recipe
        against = band_of(recipe)
    if against is None:
        raise ConfigError(f"there is no measured band for recipe {recipe or '(none)'} of {run}: give --against RUN or BAND.json")
    band = Band.load(against)
    monitor = BandMonitor(band)
    for point in curve:
        if remark := monitor.look(point):
            print(remark)
    inside = sum(bounds is not None for bounds in (band.at(point.epoch) for point in curve))
    if not inside:
        raise ConfigError(f"the band covers epochs {band.epochs[0]} to {band.epochs[-1]}, where {run} has no log line")
    print(f"{inside} log lines compared with the band of recipe {band.recipe}: {'outside' if monitor.left else 'within'}")
    return CHECK_FAILED if monitor.left else 0


def _write(runs: list[Path], loss: str, margin: float, path: Path) -> int:
    config = load(runs[0] / CONFIG_NAME)
    source = {"runs": len(runs), "written": date.today().isoformat(), "margin": margin, "batch": config.train.global_batch_size}
    band = make_band([read_curve(run, loss) for run in runs], config.recipe, loss, margin, source)
    band.save(path)
    print(f"wrote {path}: {len(band.epochs)} points up to epoch {band.epochs[-1]:g}")
    return 0
