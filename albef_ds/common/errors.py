"""Exceptions for problems that the user can fix. The text names the problem and, after the colon, the fix.

The command line prints a `UserError` as one line on standard error and exits with code 2. Any other exception is a bug of this
package and keeps its traceback.
"""


class UserError(ValueError):
    """A problem that the user can fix. Base class of the errors below, and the one to catch."""


class ConfigError(UserError):
    """A setting or an argument cannot be used, or conflicts with another one."""


class DataError(UserError):
    """A corpus, a shard, an annotation file, an image or the log of a run cannot be used."""


class WeightsError(UserError):
    """A checkpoint or a weight file is missing, is damaged or belongs to another model."""


class MachineError(UserError):
    """The machine lacks a device, a package, disk space, a writable folder, another rank or Slurm."""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, at most 200 characters (torch's texts are long), or its type without a text."""
    lines = str(error).strip().splitlines()
    return (lines[0][:200].rstrip(" :.") if lines else "") or type(error).__name__
