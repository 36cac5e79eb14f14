"""Whether the files a specification names are there, before anything starts.

Done only where the controller sees the disks of the hosts, such as on one machine. Reads no
content; the hosts read, and compare what they read by digest.
"""

from __future__ import annotations

import glob
import os
import sysconfig
from typing import Any

from controller.api.documents import pointer_of
from controller.api.problems import SpecProblem

STDLIB_PREFIX = "python-stdlib:"


def path_problems(document: dict[str, Any]) -> list[SpecProblem]:
    """A problem for every path of every source that leads to no readable file, and for a tokenizer
    that cannot be read."""
    data = document.get("data")
    if not isinstance(data, dict):
        return []
    train = document.get("train")
    evaluate = train.get("eval") if isinstance(train, dict) else None
    held_out = evaluate.get("sources") if isinstance(evaluate, dict) else None
    return [
        *_tokenizer_problems(data.get("tokenizer")),
        *_source_problems(data.get("sources"), "data"),
        *_source_problems(held_out, "train", "eval"),
    ]


def _tokenizer_problems(tokenizer: Any) -> list[SpecProblem]:
    path = tokenizer.get("path") if isinstance(tokenizer, dict) else None
    if not isinstance(path, str) or not path.isprintable() or _is_readable(path):
        return []
    detail = f"no readable file is at {path[:200]!r}"
    hint = "`landbridge tokenizer train` makes one; relative paths start where the worker does"
    return [SpecProblem("/data/tokenizer/path", "no-such-file", detail, hint)]


def _source_problems(sources: Any, *section: str) -> list[SpecProblem]:
    problems = []
    for i, source in enumerate(sources if isinstance(sources, list) else []):
        paths = source.get("paths") if isinstance(source, dict) else None
        for j, path in enumerate(paths if isinstance(paths, list) else []):
            if isinstance(path, str) and path.isprintable() and not _leads_to_a_file(path):
                pointer = pointer_of(*section, "sources", i, "paths", j)
                detail = f"no readable file matches {path[:200]!r}"
                hint = "** crosses folders; relative paths start where the worker was started"
                problems.append(SpecProblem(pointer, "no-such-file", detail, hint))
    return problems


def _leads_to_a_file(path: str) -> bool:
    pattern, root = path, None
    if path.startswith(STDLIB_PREFIX):
        pattern, root = path.removeprefix(STDLIB_PREFIX), sysconfig.get_paths()["stdlib"]
    if root is None and _is_readable(path):
        return True
    matches = glob.iglob(pattern, root_dir=root, recursive=True, include_hidden=True)
    return any(_is_readable(os.path.join(root or "", match)) for match in matches)


def _is_readable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.R_OK)
