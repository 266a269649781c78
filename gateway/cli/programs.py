"""`--app` and AGENCY_APPS: the programs of the user's own whose agents and tools a process runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.apps import load_apps, module_names
from runtime.registry import Registry
from runtime.settings import RuntimeSettings


def programs(given: Sequence[str]) -> Registry:
    """Return what the modules of `--app` have, or those of AGENCY_APPS when there is none.

    They are looked for in the working directory first, as `python -m` does.

    Raises:
        AppError, DuplicateNameError: see `load_apps`.
    """
    names = module_names(",".join(given) or RuntimeSettings().apps)
    here = str(Path.cwd())
    if names and here not in sys.path:
        sys.path.insert(0, here)
    return load_apps(names)
