"""The pages that a new user reads, cut into what can be run."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block, comments removed."""
        return [words for line in self.text.splitlines() if (words := shlex.split(line, comments=True))]


def blocks() -> list[Block]:
    """Return every fenced block of every page."""
    found: list[Block] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            name = page.relative_to(ROOT).as_posix()
            found.append(Block(page=name, line=line, language=match["language"], text=match["text"]))
    return found


def fence_lines(page: Path) -> int:
    """Return how many lines of a page open or close a block."""
    return sum(line.lstrip().startswith("```") for line in page.read_text(encoding="utf-8").splitlines())


def inline_commands() -> list[tuple[str, list[str]]]:
    """Return the page and the words of every `agency ...` that stands in a sentence."""
    found: list[tuple[str, list[str]]] = []
    for page in PAGES:
        prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
        texts = [text for text in _INLINE.findall(prose) if text.startswith("agency ")]
        found += [(page.name, shlex.split(text)) for text in texts]
    return found


def relative_links() -> list[tuple[Path, str]]:
    """Return every link of a page that leads to a file beside it."""
    return [
        (page, target.partition("#")[0])
        for page in PAGES
        for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
        if "://" not in target and not target.startswith(("#", "mailto:"))
    ]
