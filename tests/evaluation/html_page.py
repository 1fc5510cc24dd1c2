"""An HTML page as tests read it: its elements, which must nest, its texts and the cells of its tables."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


class HtmlPage(HTMLParser):
    """A page that has been read.

    Attributes:
        attributes: tag, name and value of every attribute.
        tags: of all elements.
        text: all that is no style or script.
        rows: the cells of each row of each table, with their classes.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.text = ""
        self.rows: list[list[tuple[str, set[str]]]] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(("", set((dict(attrs).get("class") or "").split())))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._open):
            text, classes = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, classes)
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data

    def values(self, *names: str) -> list[str]:
        """The values of attributes of these names."""
        return [value for _, name, value in self.attributes if name in names]

    def check_alone(self) -> None:
        """Nothing of the page lies elsewhere, and no script is in it."""
        addresses = self.values("src", "href", "xlink:href", "url", "action", "data", "poster", "srcset")
        assert all(address.startswith(("#", "data:")) for address in addresses), addresses
        assert not {"script", "iframe", "object", "embed", "base"} & set(self.tags)
