"""Finds the files of a source, always in the same order, and digests them.

A path is a file, a glob (** crosses folders), or "python-stdlib:GLOB": the library of the running
interpreter, real text that every machine has. From the latter we leave out, on purpose,
  - site-packages and dist-packages: not the interpreter's own, different on every machine;
  - folders named test, tests or idle_test, such as test/ and lib2to3/tests/data: many distributions
    lack them, and they hold files that are deliberately not UTF-8;
  - _sysconfigdata*.py and config-*/: written when the interpreter was built, with local paths.
Nothing else is skipped: a file that cannot be read is an error.
"""

import contextlib
import fnmatch
import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from workers.data.errors import DataError

_STDLIB_PREFIX = "python-stdlib:"
_LEFT_OUT_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_BUILD_PREFIXES = ("_sysconfigdata", "config-")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file and the sha256 of its content, in hexadecimal."""

    path: Path
    sha256: str


def find_files(source_name: str, patterns: Sequence[str]) -> list[Path]:
    """Files of all patterns, each once, sorted by path. Raises DataError when one matches none."""
    found: set[Path] = set()
    for pattern in patterns:
        matches = _match(pattern)
        if not matches:
            raise DataError(
                source_name,
                f"no file matches {pattern!r}",
                f"check the path; relative ones start from {os.getcwd()} on the worker",
            )
        found.update(matches)
    return sorted(found)


def digest_files(source_name: str, paths: Sequence[Path]) -> list[SourceFile]:
    """The files with their digests. Raises DataError when one cannot be read."""
    files = []
    for path in paths:
        with opened(source_name, path) as stream:
            files.append(SourceFile(path, hashlib.file_digest(stream, "sha256").hexdigest()))
    return files


@contextlib.contextmanager
def opened(source_name: str, path: Path) -> Iterator[BufferedReader]:
    """The file for reading; what the system says against it is a DataError."""
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise DataError(
            source_name,
            f"cannot read {path}: {error.strerror}",
            "make it readable for the worker, or leave it out of paths",
        ) from error


def _match(pattern: str) -> list[Path]:
    if pattern.startswith(_STDLIB_PREFIX):
        return _match_stdlib(pattern.removeprefix(_STDLIB_PREFIX))
    paths = [Path(match) for match in glob.iglob(pattern, recursive=True, include_hidden=True)]
    if not paths and Path(pattern).is_file():
        # A file whose name holds glob characters, named literally.
        paths = [Path(pattern)]
    return [path.resolve() for path in paths if path.is_file()]


def _match_stdlib(pattern: str) -> list[Path]:
    root = sysconfig.get_path("stdlib")
    patterns = pattern.split("/")
    found = []
    for folder, folders, files in os.walk(root):
        # Pruned here, not after matching: site-packages may be a hundred times the library.
        folders[:] = [name for name in folders if _is_library(name)]
        inner = os.path.relpath(folder, root).split(os.sep) if folder != root else []
        names = [name for name in files if _is_library(name)]
        found += [Path(folder, name) for name in names if _matches([*inner, name], patterns)]
    return found


def _is_library(name: str) -> bool:
    return name not in _LEFT_OUT_FOLDERS and not name.startswith(_BUILD_PREFIXES)


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return _matches(parts, patterns[1:]) or (bool(parts) and _matches(parts[1:], patterns))
    return (
        bool(parts)
        and fnmatch.fnmatchcase(parts[0], patterns[0])
        and _matches(parts[1:], patterns[1:])
    )
