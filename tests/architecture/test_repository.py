"""What no file of the repository may hold: where packages come from, and where somebody's checkout lies."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Written so that this file does not hold what it looks for.
HOSTS = re.compile(
    rb"\b(pypi|testpypi|pythonhosted|npmjs|registry\.yarnpkg|conda\.anaconda|crates)\.(org|com|io)\b"
    rb"|\b(artifactory|jfrog|nexus)\.[a-z]"
)
PLACES = re.compile(rb"/(home|Users|root|work|tmp|workspace)/[A-Za-z0-9_.-]+|\b[A-Z]:\\\\Users")


def files() -> list[Path]:
    """Return the files that are in the repository, or would be with the next commit."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="an unpacked archive has no list of its files"
)
@pytest.mark.parametrize("pattern", [HOSTS, PLACES], ids=["registry hosts", "places on a machine"])
def test_no_file_holds(pattern: re.Pattern[bytes]) -> None:
    found = {
        path.relative_to(ROOT).as_posix(): match.group().decode()
        for path in files()
        if (match := pattern.search(path.read_bytes()))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (HOSTS, b"--index-url https://" + b"pypi" + b".org/simple"),
        (HOSTS, b"https://files." + b"pythonhosted" + b".org/packages"),
        (PLACES, b"cd /" + b"home/anna/agency"),
        (PLACES, b"DIR=/" + b"tmp/x"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[bytes], text: bytes) -> None:
    assert pattern.search(text)
