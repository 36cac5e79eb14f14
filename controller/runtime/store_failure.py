"""What people are told when the store fails: what is wrong, where, what to do."""

from __future__ import annotations

import errno
import os
import pathlib

import sqlalchemy as sa
import sqlalchemy.exc

SCARCE_BYTES = 1 << 17
"""With less than this free, what SQLite cannot open or write is for the lack of it. Its shared
memory takes 32 KiB, a commit of steps some tens."""


class StoreFailed(RuntimeError):
    """The store cannot be read or written. A transaction that met this left nothing behind."""


def file_of(url: sa.URL) -> pathlib.Path | None:
    """The file of an SQLite database; None for others."""
    is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return pathlib.Path(str(url.database)) if is_file else None


def failure(error: sqlalchemy.exc.DBAPIError, url: sa.URL) -> StoreFailed:
    """The error of a database in words for people."""
    code = str(getattr(error.orig, "sqlite_errorname", ""))
    said = f"{error.orig} ({code})" if code else str(error.orig)
    path = file_of(url)
    if path is None:
        where = url.render_as_string(hide_password=True)
        return StoreFailed(f"the store {where} failed; the database says: {said}")
    return StoreFailed(f"the store {path} {_story(path, code)}; SQLite says: {said}")


def not_written(error: OSError, url: sa.URL) -> StoreFailed:
    """The error of the system in words for people."""
    where = file_of(url)
    if where is None:
        return StoreFailed(f"the store {url.render_as_string(hide_password=True)} failed: {error}")
    code = "SQLITE_FULL" if error.errno == errno.ENOSPC else "SQLITE_IOERR"
    return StoreFailed(f"the store {where} {_story(where, code)}; the system says: {error}")


def damaged(url: sa.URL, found: str) -> StoreFailed:
    """What is there cannot be what was written."""
    where = file_of(url) or url.render_as_string(hide_password=True)
    return StoreFailed(f"the store {where} {_DAMAGED.format(path=where)}; found: {found}")


def moved(url: sa.URL) -> StoreFailed:
    """The file is not where it was opened."""
    return StoreFailed(
        f"the store {file_of(url)} was moved, deleted or replaced while the controller ran; what "
        "would be written now nobody would find; put it back and start the controller again"
    )


def _story(path: pathlib.Path, code: str) -> str:
    free, may_write = _folder(path.parent)
    is_of_files = code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))
    if is_of_files and not may_write:
        code = "SQLITE_READONLY"
    elif is_of_files and free is not None and free < SCARCE_BYTES:
        code = "SQLITE_FULL"
    for start, words in _STORIES.items():
        if code.startswith(start):
            return words.format(path=path, folder=path.parent, free=free)
    return "refused what it was to do"


def _folder(folder: pathlib.Path) -> tuple[int | None, bool]:
    """Bytes that are free, if that can be told, and whether this process may write there."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return None, True
    may_write = not status.f_flag & os.ST_RDONLY and os.access(folder, os.W_OK)
    return status.f_bavail * status.f_frsize, may_write


_DAMAGED = (
    "is damaged; move {path} and what begins with its name away, and put a copy from before in its "
    "place, or what `sqlite3 {path} .recover` saves of it"
)

_STORIES = {
    "SQLITE_FULL": "has no room: {free} bytes are free in {folder}; make room and start the "
    "controller again: what was not written, hosts tell it again",
    "SQLITE_READONLY": "may only be read; mount its file system for writing, or let this user "
    "write to it and to its folder",
    "SQLITE_CANTOPEN": "cannot be opened; its folder must be there, and this user must be allowed "
    "to write to it",
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_NOTADB": _DAMAGED,
    "SQLITE_BUSY": "was kept locked by another program for 5 s; end that one, such as an open "
    "sqlite3 shell or a backup",
    "SQLITE_IOERR": "cannot be read or written; look for errors of its disk or file system, and "
    "for limits on the size of files",
}
"""By the beginning of SQLite's name for an error."""
