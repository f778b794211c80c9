"""Reads a page as a reader sees it: sentences, tables, and the data of the charts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

_VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """A page, taken apart.

    Attributes:
        answers: The answer of each section, by its key.
        tables: The rows of each table, by its caption, the head first.
        tiles: The big numbers, by their names.
        verdicts: Level and sentence.
        data: What the script draws.
        policy: The content security policy.
        attributes: All attributes with an address.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.answers: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.tiles: dict[str, str] = {}
        self.verdicts: list[tuple[str, str]] = []
        self.policy = ""
        self.attributes: list[tuple[str, str]] = []
        self._stack: list[tuple[str, str]] = []
        self._text: list[str] = []
        self._section = self._caption = self._tile = self._level = ""
        content = path.read_text("utf-8")
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', content)
        assert found is not None
        self.data: dict[str, Any] = json.loads(found[1])
        self.feed(re.sub(r"<(script|style)\b.*?</\1>", "", content, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.attributes += [(k, v) for k, v in values.items() if k in ("href", "src")]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        if tag in _VOID:
            return
        if tag == "section":
            self._section = values["id"]
        starts = tag in ("th", "td", "caption", "p", "dt", "li") or (tag == "b" and self._tile)
        if starts or "level" in values.get("class", ""):
            self._text = []
        if tag == "tr" and self._caption:
            self.tables[self._caption].append([])
        self._stack.append((tag, values.get("class", "")))

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        name, kind = self._stack.pop()
        assert name == tag, f"<{name}> is closed by </{tag}>"
        said = "".join(self._text).strip().replace("\u00a0", " ")
        if tag == "caption":
            self._caption = said
            self.tables[said] = []
        elif tag == "table":
            self._caption = ""
        elif tag in ("th", "td") and self._caption:
            self.tables[self._caption][-1].append(said)
        elif tag == "p" and kind == "answer":
            self.answers[self._section] = said
        elif tag == "dt":
            self._tile = said
        elif tag == "b" and self._tile:
            self.tiles[self._tile] = said
            self._tile = ""
        elif kind.startswith("level"):
            self._level = said
            self._text = []
        elif tag == "li":
            self.verdicts.append((self._level, said))

    def chart(self, place: str) -> dict[str, Any]:
        """What a chart draws."""
        return self.data["charts"][place]
