"""A page as a browser takes it apart."""

from __future__ import annotations

import html.parser
import re

from tests.controller.rig import Rig


class Tags(html.parser.HTMLParser):
    """Everything a browser would load or run, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        for name, value in attrs:
            if name in ("src", "href", "action"):
                self.addresses.append(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)
        self.text += data


async def page(controller: Rig, path: str, **form: str) -> Tags:
    """The page at a path, or what the form sent there leads to; nothing inline, nothing foreign."""
    answer = await (controller.http.post(path, data=form) if form else controller.http.get(path))
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    tags = Tags(answer.text)
    assert tags.inline == []
    assert [address for address in tags.addresses if not re.match(r"[/#](?!/)", address)] == []
    assert len(tags.ids) == len(set(tags.ids))
    return tags
