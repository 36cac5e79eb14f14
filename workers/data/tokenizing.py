"""Tokens of a source: taken from the cache, or made now.

Tokenising happens once, up front, and not while training streams by: sequences are read by random
access over the whole source, and where sequence i starts is known only when the number of tokens of
every document before it is. What that costs is paid once per source, tokenizer and machine, because
the result is kept under the digest of everything it depends on.
"""

import concurrent.futures
import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from workers.data import token_file
from workers.data.errors import DataError
from workers.data.files import SourceFile, digest_files, find_files
from workers.data.sources import Source, read_documents
from workers.data.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# What one thread is given at a time: many small documents cost one hand-over.
_PARCEL_BYTES = 1 << 20

# Raised when the same files and tokenizer shall give other tokens than before.
_FORMAT = "landbridge.tokens/1"


def tokens_of(source: Source, tokenizer: Tokenizer, folder: Path) -> token_file.TokenFile:
    """The source's tokens, kept in `folder`. Raises DataError."""
    files = digest_files(source.name, find_files(source.name, source.paths))
    path = folder / f"{cache_key(source, tokenizer, files)}.tokens"
    dtype = token_file.id_dtype(tokenizer.vocab_size)
    try:
        return token_file.read(path, dtype)
    except FileNotFoundError:
        pass
    except (token_file.Damaged, OSError) as damage:
        logger.warning("the tokens of %s are made again: %s: %s", source.name, path, damage)
    try:
        documents = encoded(read_documents(source, files), tokenizer)
        return token_file.write(path, dtype, documents, tokenizer.end_of_document)
    except OSError as error:
        raise DataError(
            source.name,
            f"its tokens cannot be kept in {folder}: {error.strerror}",
            "make room in the worker's state directory, or start it with another --state-dir",
        ) from error


def cache_key(source: Source, tokenizer: Tokenizer, files: Sequence[SourceFile]) -> str:
    """Names the tokens by all they depend on, in hexadecimal: tokenizer, contents in order, and how
    they are read. Names and places of files do not matter."""
    said = {
        "format": _FORMAT,
        "tokenizer": tokenizer.identity,
        "kind": source.kind,
        "field": source.field if source.kind == "jsonl" else None,
        "files": [file.sha256 for file in files],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def encoded(documents: Iterable[bytes], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Ids of every document, in order.

    A tokenizer that gains from it gets a thread per core, and two parcels of documents per thread
    are under way at most. Threads and not processes: the library computes without Python's lock,
    and threads end with a worker that is killed.
    """
    if not tokenizer.is_parallel:
        yield from map(tokenizer.encode, documents)
        return
    num_threads = _num_cores()
    under_way: deque[concurrent.futures.Future[list[np.ndarray]]] = deque()
    with concurrent.futures.ThreadPoolExecutor(num_threads, "tokenize") as pool:
        for parcel in _parcels(documents):
            under_way.append(pool.submit(lambda p=parcel: [tokenizer.encode(d) for d in p]))
            if len(under_way) >= 2 * num_threads:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()


def _parcels(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    parcel: list[bytes] = []
    size = 0
    for document in documents:
        parcel.append(document)
        size += len(document)
        if size >= _PARCEL_BYTES:
            yield parcel
            parcel, size = [], 0
    if parcel:
        yield parcel


def _num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
