"""Tokens of a trained SentencePiece model."""

import hashlib
import logging
import pathlib
import re
from types import ModuleType
from typing import Any

import numpy as np

from workers.data.errors import DataError

logger = logging.getLogger(__name__)

# Characters that the library keeps for itself: it writes spaces as U+2581 and reads them back as
# spaces, wherever they came from.
_SPACE = "\u2581"
_RESERVED = re.compile(f"({_SPACE}+)".encode())


class SentencePieceTokenizer:
    """Ids of the model; its end-of-sentence piece ends a document.

    Loses nothing when the model was made by `landbridge tokenizer train`; models of others may
    normalise text.
    """

    is_parallel = True

    def __init__(self, path: str) -> None:
        """Raises DataError when the file is no usable model."""
        try:
            model = pathlib.Path(path).read_bytes()
        except OSError as error:
            detail = f"cannot read {path}: {error.strerror}"
            raise DataError("tokenizer", detail, "name a SentencePiece .model file") from error
        self._processor = _load(path, model)
        self.identity = f"sentencepiece/1 sha256:{hashlib.sha256(model).hexdigest()}"
        self.vocab_size: int = self._processor.vocab_size()
        self.end_of_document: int = self._processor.eos_id()
        if self.end_of_document < 0:
            raise DataError(
                "tokenizer",
                f"{path} has no end-of-sentence piece, which is to end documents",
                "train it with eos_id, as `landbridge tokenizer train` does",
            )
        byte_pieces = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self._byte_ids = np.array(byte_pieces, np.int32)
        self._has_bytes = all(map(self._processor.is_byte, byte_pieces))
        if not self._has_bytes:
            logger.warning("%s has no byte fallback: what it does not know is lost", path)

    def encode(self, document: bytes) -> np.ndarray:
        """int32 ids."""
        if not self._has_bytes or not _RESERVED.search(document):
            return self._ids(document)
        parts = _RESERVED.split(document)
        ids = [
            self._byte_ids[np.frombuffer(part, np.uint8)] if index % 2 else self._ids(part)
            for index, part in enumerate(parts)
        ]
        return np.concatenate(ids)

    def decode(self, tokens: np.ndarray) -> str:
        """Raises IndexError for ids that the model does not have."""
        text = tokens[tokens != self.end_of_document]
        return self._processor.decode(text.tolist())

    def bytes_per_token(self) -> np.ndarray:
        """int32 [vocab_size]; adds up to the bytes of a document where nothing is lost, and the
        unknown piece, for which what is lost is not known, counts 0."""
        return np.array([self._num_bytes(token) for token in range(self.vocab_size)], np.int32)

    def _num_bytes(self, token: int) -> int:
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return 0
        if self._processor.is_byte(token):
            return 1
        return len(self._processor.id_to_piece(token).replace(_SPACE, " ").encode())

    def _ids(self, document: bytes) -> np.ndarray:
        return self._processor.encode(document, return_type="numpy")


def sentencepiece() -> ModuleType:
    """The library, imported when it is used: the byte tokenizer needs none. Raises DataError."""
    try:
        import sentencepiece as library
    except ImportError as error:
        raise DataError(
            "tokenizer",
            "the package sentencepiece is not installed here",
            "pip install 'landbridge[worker]'",
        ) from error
    return library


def _load(path: str, model: bytes) -> Any:
    library = sentencepiece()
    try:
        return library.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(
            "tokenizer",
            f"{path} is not a SentencePiece model: {error}",
            "make one with `landbridge tokenizer train`",
        ) from error
