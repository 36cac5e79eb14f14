"""Reads server-sent events as the HTML standard frames them: lines of fields, then a blank one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One message; `data` is parsed JSON."""

    event: str
    data: Any


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """Messages of a stream; comments are left out."""
    event, data = "message", []
    for line in lines:
        if not line:
            if data:
                yield Message(event, json.loads("\n".join(data)))
            event, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data.append(value)
