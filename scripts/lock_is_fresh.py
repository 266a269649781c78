"""Is requirements.lock made from this pyproject.toml? `--write` makes it so; `--upgrade` moves the pins too.

The lock's header carries a hash of pyproject's dependency tables, so that the question is answered offline.
"""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
HEADER = "make lock (dependencies "


def fingerprint() -> str:
    """Return a hash of everything in pyproject.toml that decides the pins."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tables = {
        "python": project["project"]["requires-python"],
        "dependencies": project["project"]["dependencies"],
        "extras": project["project"]["optional-dependencies"],
        "build": project["build-system"]["requires"],
    }
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()[:16]


def write(*, upgrade: bool) -> None:
    """Compile the lock; existing pins stay unless `upgrade`."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--extra",
        "dev",
        "--universal",
        "--generate-hashes",
    ]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--quiet", "-o", LOCK.name]
    command += ["--custom-compile-command", f"{HEADER}{fingerprint()})"]
    subprocess.run([*command, *(["--upgrade"] if upgrade else [])], check=True, cwd=ROOT)  # noqa: S603 -- fixed words


def main() -> None:
    """Check, or write."""
    if "--write" in sys.argv:
        write(upgrade="--upgrade" in sys.argv)
    elif f"{HEADER}{fingerprint()})" not in LOCK.read_text(encoding="utf-8"):
        sys.exit("requirements.lock does not belong to this pyproject.toml; run 'make lock'")


if __name__ == "__main__":
    main()
