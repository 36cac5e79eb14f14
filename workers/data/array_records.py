"""Reads the records of an ArrayRecord file, the format of Grain and TensorFlow Datasets."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from workers.data.errors import DataError

# Read in one call: enough for the library's own threads, little enough to hold.
_RECORDS_AT_ONCE = 256


def read_records(source_name: str, path: Path) -> Iterator[bytes]:
    """The records in order. Raises DataError when file or library cannot be used."""
    library = _library(source_name)
    reader = library.ArrayRecordReader(str(path))
    try:
        if not reader.ok():
            # Asked for a record it tells what is the matter.
            reader.read()
        count = reader.num_records()
        for first in range(0, count, _RECORDS_AT_ONCE):
            yield from reader.read(first, min(first + _RECORDS_AT_ONCE, count))
    except (RuntimeError, IndexError) as error:
        cause = str(error).partition(";")[0] or "its records are damaged"
        raise DataError(
            source_name,
            f"{path} is no ArrayRecord file that can be read: {cause}",
            "write it again, or leave it out of paths",
        ) from error


def _library(source_name: str) -> ModuleType:
    try:
        # A compiled module, of which type checkers see nothing.
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        raise DataError(
            source_name,
            "the package array-record is not installed here",
            "pip install 'landbridge[array-record]'",
        ) from error
    return array_record_module
