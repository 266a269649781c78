"""Virtual environments for the rivals, outside the checkout: `python -m benchmarks.agent_step.setup_rivals`.

They are made once in the user's cache directory (`XDG_CACHE_HOME`) and again when a pin changes.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

INSTALL_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Somebody else's durable loop."""

    name: str
    environment: str
    """Rivals that share one have the same requirements."""
    requirements: tuple[str, ...]
    module: str
    kill_module: str
    """Its side of `benchmarks.agent_step.kills`."""
    variant: str = ""


class NotInstalledError(Exception):
    """A rival's environment cannot be made; the text says why."""


_LANGGRAPH = ("langgraph==1.2.22", "langgraph-checkpoint-postgres==3.2.0", "psycopg[binary]==3.3.9", "anyio==4.16.0")
_OPENAI = ("openai-agents[sqlalchemy]==0.24.0", "sqlalchemy==2.1.9", "asyncpg==0.32.0", "anyio==4.16.0")

RIVALS = (
    Rival(
        name="langgraph",
        environment="langgraph",
        requirements=_LANGGRAPH,
        module="benchmarks.agent_step.rivals.langgraph_saver",
        kill_module="benchmarks.agent_step.rivals.kill_langgraph",
    ),
    Rival(
        name="langgraph-delta",
        environment="langgraph",
        requirements=_LANGGRAPH,
        module="benchmarks.agent_step.rivals.langgraph_saver",
        kill_module="benchmarks.agent_step.rivals.kill_langgraph",
        variant="delta",
    ),
    Rival(
        name="openai-agents",
        environment="openai-agents",
        requirements=_OPENAI,
        module="benchmarks.agent_step.rivals.openai_session",
        kill_module="benchmarks.agent_step.rivals.kill_openai",
    ),
)


def interpreter_of(rival: Rival) -> Path:
    """Return the interpreter of a rival's environment, making it if need be.

    Raises:
        NotInstalledError: it cannot be made.
    """
    home = user_cache_path("agency-bench") / rival.environment
    python, stamp = home / "bin" / "python", home / "requirements.txt"
    wanted = "\n".join(rival.requirements)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(home))
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *rival.requirements)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        reasons = [line for line in str(error.stderr).splitlines() if line.startswith("ERROR")]
        raise NotInstalledError(reasons[-1] if reasons else str(error)) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(str(error)) from error


def interpreters() -> tuple[dict[Rival, Path], dict[str, str]]:
    """Return the interpreters of the rivals that could be installed, and why the others could not, by name."""
    found: dict[Rival, Path] = {}
    missing: dict[str, str] = {}
    for rival in RIVALS:
        try:
            found[rival] = interpreter_of(rival)
        except NotInstalledError as error:
            missing[rival.name] = f"not installed: {error}"
    return found, missing


def main() -> None:
    """Make them all and say where they are."""
    found, missing = interpreters()
    for rival, python in found.items():
        print(f"{rival.name}: {python}")
    for name, reason in missing.items():
        print(f"{name}: {reason}")


if __name__ == "__main__":
    main()
