"""Token ids of a source in one file that is mapped into memory.

64 bytes of header (magic, bytes per id, documents, ids, sha256 of the ids), then the ids, little
endian. A file appears under its name only when it is whole, so any number of processes may make the
same one at once; and it is believed only when its length and digest are those of its header.
"""

import contextlib
import hashlib
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_HEADER = struct.Struct("<8sQQQ32s")
_MAGIC = b"LBTOKENS"

# Large enough that system calls and hash updates cost nothing, small enough for any cache.
_CHUNK_BYTES = 1 << 20

_PART = ".part"
_ABANDONED_SECONDS = 24 * 3600.0


class Damaged(Exception):
    """The file is not what was written; says how."""


@dataclass(frozen=True, slots=True)
class TokenFile:
    tokens: np.ndarray
    """One dimension, read-only, mapped; the documents in order, each with its end."""
    num_documents: int
    sha256: str
    """Of the ids, in hexadecimal."""


def id_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest type of a file's ids that holds the vocabulary: 2 bytes or 4."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def read(path: Path, dtype: np.dtype[np.unsignedinteger]) -> TokenFile:
    """Map a file and check all of it. Raises FileNotFoundError and Damaged."""
    with path.open("rb") as stream:
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise Damaged(f"{len(header)} bytes hold no header")
        magic, item_size, num_documents, num_tokens, digest = _HEADER.unpack(header)
        if magic != _MAGIC or item_size != dtype.itemsize:
            raise Damaged("the header is not of this format")
        size, expected = path.stat().st_size, _HEADER.size + num_tokens * item_size
        if size != expected:
            raise Damaged(f"{size} bytes instead of {expected}")
        if (seen := hashlib.file_digest(stream, "sha256").digest()) != digest:
            raise Damaged(f"the ids have digest {seen.hex()} and not {digest.hex()}")
    return TokenFile(_map(path, dtype, num_tokens), num_documents, digest.hex())


def write(
    path: Path, dtype: np.dtype[np.unsignedinteger], documents: Iterable[np.ndarray], end: int
) -> TokenFile:
    """Write the ids of documents, each followed by `end`, and map them.

    Raises OSError, and what iterating raises; then nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    descriptor, name = tempfile.mkstemp(_PART, path.stem, path.parent)
    temporary = Path(name)
    digest, ending = hashlib.sha256(), np.array([end], dtype).tobytes()
    num_documents = num_tokens = 0
    try:
        with open(descriptor, "wb", buffering=_CHUNK_BYTES) as stream:
            stream.write(bytes(_HEADER.size))
            for document in documents:
                ids = document.astype(dtype).tobytes() + ending
                digest.update(ids)
                stream.write(ids)
                num_documents += 1
                num_tokens += len(document) + 1
            stream.seek(0)
            stream.write(
                _HEADER.pack(_MAGIC, dtype.itemsize, num_documents, num_tokens, digest.digest())
            )
        # Not flushed to the disk: what a crash of the machine leaves is found by its digest.
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return TokenFile(_map(path, dtype, num_tokens), num_documents, digest.hexdigest())


def _sweep(folder: Path) -> None:
    """Remove what killed processes were writing; whoever still writes has done so lately."""
    for part in folder.glob(f"*{_PART}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                part.unlink()


def _map(path: Path, dtype: np.dtype[np.unsignedinteger], num_tokens: int) -> np.ndarray:
    mapped = np.memmap(path, dtype, "r", _HEADER.size, (num_tokens,))
    # A plain array over the same pages: memmap's own indexing costs more than the gather does.
    return np.asarray(mapped if sys.byteorder == "little" else mapped.astype(dtype.newbyteorder()))
