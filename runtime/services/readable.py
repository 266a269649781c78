"""From a page of HTML to text that a model can read: the title, headings, lists and links are kept, the rest is words.

Pure.
"""

import re
from html.parser import HTMLParser
from urllib.parse import urljoin

_UNREAD = frozenset({"script", "style", "noscript", "template", "svg", "iframe", "object"})
"""Elements whose contents nobody reads."""
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "br",
        "dd",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "table",
        "tr",
        "ul",
    ]
)
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n\s*\n\s*")


def readable(html: str, base_url: str) -> tuple[str, str]:
    """Return the title ("" without one) and the text; a link reads `[words](absolute address)`."""
    reader = _Reader(base_url)
    try:
        # Never `close`: on what is left unfinished it takes quadratic time (CVE-2025-6069), nine minutes for 180 KB of
        # "<a ". What stands after an unfinished tag is not shown.
        reader.feed(html)
    except AssertionError:
        reader.put("\n(the rest of the page is malformed)")  # how html.parser speaks about an unknown `<![...`
    reader.finish()
    return " ".join("".join(reader.title).split()), _tidy("".join(reader.parts))


def _tidy(text: str) -> str:
    lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


class _Reader(HTMLParser):
    def __init__(self, base_url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.parts: list[str] = []
        self._base_url = base_url
        self._unread: list[str] = []
        self._in_title = False
        self._link: str | None = None

    def put(self, text: str) -> None:
        """Add to the text, unless what is being read is not for readers."""
        if not self._unread:
            self.parts.append(text)

    def finish(self) -> None:
        """Close what the page has left open."""
        self._close_link()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = not self.title
        elif tag in _UNREAD:
            self._unread.append(tag)
        elif tag == "a":
            self._open_link(dict(attrs).get("href"))
        elif tag in {"td", "th"}:
            self.put(" ")
        elif tag in _BLOCKS:
            self._open_block(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _UNREAD:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._unread:
            del self._unread[self._unread.index(tag) :]
        elif tag == "a":
            self._close_link()
        elif tag in _BLOCKS:
            self.put("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        else:
            self.put(_SPACES.sub(" ", data.replace("\n", " ")))

    def _open_block(self, tag: str) -> None:
        self.put("\n")
        if tag in _HEADINGS:
            self.put(f"\n{_HEADINGS[tag]} ")
        elif tag == "li":
            self.put("- ")

    def _open_link(self, href: str | None) -> None:
        self._close_link()
        address = _absolute(self._base_url, href)
        if address is not None:
            self._link = address
            self.put("[")

    def _close_link(self) -> None:
        if self._link is not None:
            self.put(f"]({self._link})")
            self._link = None


def _absolute(base_url: str, href: str | None) -> str | None:
    """Return where a link leads when that is another page."""
    if not href or href.startswith("#"):
        return None
    try:
        address = urljoin(base_url, href.strip())
    except ValueError:
        return None
    return address if address.startswith(("https://", "http://")) else None
