"""The one exception that means "the user can mend this".

The command line turns a `ConfigError` into one line on standard error and exit code 2. Anything else is
a defect of ours and keeps its traceback.
"""


class ConfigError(ValueError):
    """A setting, a file or a sample that the user gave cannot be used; the text names it and the fix."""
