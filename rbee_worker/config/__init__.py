"""Settings: one flat, frozen struct. Defaults < environment (RBEE_...) < command line; parsed once.

`OPTIONS` has one row for each field of `Settings`. The command line, the environment variables and
the documentation are generated from it or tested against it. A bad value is a `UsageError` that
names the option, the allowed values and the fix, never a silent default. Torch-free.
"""

from rbee_worker.config.environment import OTHER_VARIABLES, unknown_variables
from rbee_worker.config.option import SERVE, Option
from rbee_worker.config.parsing import joined, parse
from rbee_worker.config.settings import DRAFTED_ROWS, SAMPLING, Settings
from rbee_worker.config.table import OPTIONS

__all__ = [
    "DRAFTED_ROWS",
    "OPTIONS",
    "OTHER_VARIABLES",
    "SAMPLING",
    "SERVE",
    "Option",
    "Settings",
    "joined",
    "parse",
    "unknown_variables",
]
