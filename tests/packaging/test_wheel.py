"""The wheel is whole: installed where the checkout cannot be seen, it makes its database and finds it ready."""

import email
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Generator
from email.message import Message
from pathlib import Path
from sysconfig import get_path

import pytest
from packaging.requirements import Requirement

from tests.user import environment_of, make_data_dir

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "mcp_server", "migrations", "runtime", "storage", "swarm")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build as `pip` does, without its isolation, which would fetch the build backend."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = out.iterdir()
    return found


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def files_of(package: str) -> set[str]:
    """Return what the checkout has of a package, byte code apart."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    names = {name for name in names_in(wheel) if ".dist-info/" not in name}
    assert names == set().union(*map(files_of, PACKAGES))
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"migrations/env.py", "migrations/script.py.mako", "migrations/versions/0001_create_tables.py"} <= names


def test_its_metadata_says_what_pyproject_says(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["name"], PROJECT["version"])
    assert (metadata["Requires-Python"], metadata["License-Expression"]) == (">=3.11", "MIT")
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names_in(wheel))
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert {str(need) for need in required if need.marker is None} == {
        str(Requirement(text)) for text in PROJECT["dependencies"]
    }
    assert str(metadata.get_payload()).startswith("# Agency")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the wheel, and the path of its bin directory.

    The dependencies are this environment's, behind the wheel on the path. Files named *.pth are read only in the
    environment's own site-packages, so the one that points to the checkout has no effect there.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    scheme = {"base": str(home), "platbase": str(home)}
    programs = Path(get_path("scripts", vars=scheme))
    install = ["install", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    command = [sys.executable, "-m", "pip", "--python", str(programs / "python"), *install]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    site = Path(get_path("purelib", vars=scheme))
    (site / "dependencies.pth").write_text(get_path("purelib") + "\n", encoding="utf-8")
    return programs


@pytest.fixture
def elsewhere(tmp_path: Path) -> Generator[tuple[Path, dict[str, str]]]:
    """A directory outside the checkout, and the environment of a new user."""
    data_dir = make_data_dir()
    yield tmp_path, environment_of(data_dir)
    shutil.rmtree(data_dir, ignore_errors=True)


def test_it_works_where_the_checkout_cannot_be_seen(installed: Path, elsewhere: tuple[Path, dict[str, str]]) -> None:
    directory, environment = elsewhere

    def ran(*command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(installed / command[0]), *command[1:]],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    places = "; ".join(f"import {name}; print({name}.__file__)" for name in PACKAGES)
    found = ran("python", "-c", places)
    assert found.returncode == 0, found.stderr
    assert [Path(line).is_relative_to(installed.parent) for line in found.stdout.splitlines()] == [True] * len(PACKAGES)

    assert ran("agency", "--version").stdout == f"agency {PROJECT['version']}\n"
    upgraded = ran("agency", "db", "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    checked = ran("agency", "db", "check")
    assert checked.returncode == 0, checked.stderr
