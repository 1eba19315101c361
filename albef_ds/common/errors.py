"""Exceptions for what the user can fix. The text names the thing and, behind the colon, the fix.

The command line turns a `UserError` into one line on standard error and exit code 2. Any other exception is a defect of ours and
keeps its traceback.
"""


class UserError(ValueError):
    """Something that the user can fix: the base class of the errors below, and the one to catch."""


class ConfigError(UserError):
    """A setting or an argument cannot be used, or does not go with another."""


class DataError(UserError):
    """Data cannot be used: a corpus, a shard, an annotation file, an image, the log of a run."""


class WeightsError(UserError):
    """A checkpoint or a file of weights is missing, damaged or of another model."""


class MachineError(UserError):
    """The machine lacks something: a device, a package, room on a disk, a folder that takes files, another rank, Slurm."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, at most 200 characters (torch's texts run over pages). Its type without text."""
    lines = str(error).strip().splitlines()
    return (lines[0][:200].rstrip(" :.") if lines else "") or type(error).__name__
