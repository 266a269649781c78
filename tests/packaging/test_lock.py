"""requirements.lock pins everything by hash, names no index, and belongs to pyproject.toml."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

_PIN = re.compile(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==[^ ;]+( ; [^\\]+)?")


def entries() -> list[tuple[str, list[str]]]:
    """Return each requirement with the options that continue its line."""
    text = "\n".join(line for line in LOCK.splitlines() if not line.lstrip().startswith("#"))
    lines = [line for line in text.replace("\\\n", "\0").splitlines() if line.strip()]
    return [(first.strip(), [rest.strip() for rest in more]) for first, *more in (line.split("\0") for line in lines)]


def test_every_line_is_one_version_with_hashes_and_nothing_else() -> None:
    assert len(entries()) > 50
    for requirement, options in entries():
        assert _PIN.fullmatch(requirement), requirement
        assert options, requirement
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options), requirement


def test_it_names_no_index() -> None:
    assert not re.search(r"://|--(extra-)?index-url|--find-links|-f ", LOCK)


def test_its_pins_are_within_the_bounds_of_pyproject() -> None:
    pins: dict[str, set[str]] = {}
    for requirement, _ in entries():
        pin = Requirement(requirement)
        pins.setdefault(canonicalize_name(pin.name), set()).add(str(pin.specifier).removeprefix("=="))
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"], *PROJECT["build-system"]["requires"]]
    for need in map(Requirement, wanted):
        versions = pins[canonicalize_name(need.name)]
        assert all(need.specifier.contains(version, prereleases=True) for version in versions), need


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What decides whether the lock is fresh, and the script that says so."""
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "requirements.lock", "scripts/lock_is_fresh.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def asked(directory: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(directory / "scripts" / "lock_is_fresh.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_belongs_to_pyproject(copy: Path) -> None:
    assert asked(copy).returncode == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"anyio>=', '"anyio>=4.9,!='),
        ('"build>=', '"build>1,>='),
        ('requires = ["hatchling', 'requires = ["wheel", "hatchling'),
    ],
    ids=["dependency", "extra", "build"],
)
def test_a_changed_requirement_makes_it_stale(copy: Path, before: str, after: str) -> None:
    text = (copy / "pyproject.toml").read_text(encoding="utf-8")
    assert before in text
    (copy / "pyproject.toml").write_text(text.replace(before, after), encoding="utf-8")
    ran = asked(copy)
    assert ran.returncode == 1
    assert "make lock" in ran.stderr


def test_a_changed_word_elsewhere_does_not(copy: Path) -> None:
    text = (copy / "pyproject.toml").read_text(encoding="utf-8")
    (copy / "pyproject.toml").write_text(text.replace("line-length = 120", "line-length = 100"), encoding="utf-8")
    assert asked(copy).returncode == 0
