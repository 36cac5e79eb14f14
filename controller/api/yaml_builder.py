"""Builds plain values from YAML events with a stack of its own, so that depth costs no recursion.

Scalars follow the core schema of YAML 1.2: `yes` is a string, `0o17` an octal number. Every refusal
says where.
"""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import events as yaml_events

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

_MAX_DIGITS = 4000
"""Python refuses to read integers of more than 4,300 digits; no field takes more than 20."""


class NotAccepted(Exception):
    """Sound YAML that a specification may not use."""

    def __init__(self, event: Any, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.detail, self.hint = detail, hint
        self.line, self.column = event.start_mark.line + 1, event.start_mark.column + 1


class _Frame:
    """An open mapping or sequence."""

    def __init__(self, container: dict[str, Any] | list[Any], pointer: str) -> None:
        self.container = container
        self.pointer = pointer
        self.key: str | None = None


class Builder:
    """Takes events one by one; `value` and `positions` are complete after the last."""

    def __init__(self, max_depth: int, max_values: int) -> None:
        self.value: Any = None
        self.positions: dict[str, tuple[int, int]] = {}
        self._max_depth = max_depth
        self._max_values = max_values
        self._frames: list[_Frame] = []
        self._num_values = 0
        self._num_documents = 0

    def take(self, event: Any) -> None:
        """The next event; raises NotAccepted."""
        if isinstance(event, yaml_events.DocumentStartEvent):
            self._num_documents += 1
            if self._num_documents > 1:
                raise NotAccepted(event, "a second document", "submit one job at a time")
        elif isinstance(event, yaml_events.AliasEvent):
            raise NotAccepted(event, f"the alias *{event.anchor}", "write the value out")
        elif isinstance(event, yaml_events.ScalarEvent):
            self._refuse_decoration(event)
            self._add(event, _scalar(event))
        elif isinstance(event, yaml_events.CollectionStartEvent):
            self._refuse_decoration(event)
            is_mapping = isinstance(event, yaml_events.MappingStartEvent)
            pointer = self._add(event, {} if is_mapping else [])
            container = self._newest
            if len(self._frames) >= self._max_depth:
                detail = f"more than {self._max_depth} levels of nesting"
                raise NotAccepted(event, detail, "a job spec needs five")
            self._frames.append(_Frame(container, pointer))
        elif isinstance(event, yaml_events.CollectionEndEvent):
            self._frames.pop()

    def _refuse_decoration(self, event: Any) -> None:
        if event.anchor is not None:
            raise NotAccepted(event, f"the anchor &{event.anchor}", "write the value out")
        if event.tag is not None:
            raise NotAccepted(event, f"the tag {event.tag}", "leave it out")
        self._num_values += 1
        if self._num_values > self._max_values:
            raise NotAccepted(event, f"more than {self._max_values} values", "a spec has fifty")

    def _add(self, event: Any, value: Any) -> str:
        """Put a value where it belongs; returns its pointer."""
        self._newest = value
        if not self._frames:
            self.value = value
            self.positions[""] = _position(event)
            return ""
        frame = self._frames[-1]
        if isinstance(frame.container, list):
            pointer = f"{frame.pointer}/{len(frame.container)}"
            frame.container.append(value)
            self.positions[pointer] = _position(event)
            return pointer
        if frame.key is None:
            frame.key = self._key(event, frame)
            return frame.pointer
        pointer = f"{frame.pointer}/{frame.key.replace('~', '~0').replace('/', '~1')}"
        frame.container[frame.key] = value
        frame.key = None
        return pointer

    def _key(self, event: Any, frame: _Frame) -> str:
        if not isinstance(event, yaml_events.ScalarEvent):
            raise NotAccepted(event, "a key that is no text", "keys are words")
        key = event.value
        if key in frame.container:
            raise NotAccepted(event, f"the key {key[:60]!r} is there twice", "keep one of them")
        pointer = f"{frame.pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        self.positions[pointer] = _position(event)
        return key


def _position(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _scalar(event: Any) -> Any:
    text: str = event.value
    if event.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise NotAccepted(event, f"a number of {len(text)} digits", "write a smaller one")
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
