"""What a tokenizer is, and the one that needs no training: a token is a byte."""

from typing import Protocol

import numpy as np


class Tokenizer(Protocol):
    """Text to ids and back. May be used by several threads at once."""

    @property
    def identity(self) -> str:
        """Names everything that ids depend on, so that it can stand for the tokenizer."""
        ...

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        ...

    @property
    def end_of_document(self) -> int:
        """The id that ends a document; text is never encoded to it."""
        ...

    @property
    def is_parallel(self) -> bool:
        """Whether `encode` computes long enough, and without Python's lock, to be given threads."""
        ...

    def encode(self, document: bytes) -> np.ndarray:
        """Ids of a document in UTF-8, one dimension; end of document not included."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """Text of the ids; nothing stands for the ends of documents."""
        ...

    def bytes_per_token(self) -> np.ndarray:
        """UTF-8 bytes of the text that every id stands for, int32 [vocab_size]; 0 for the end of a
        document."""
        ...


class ByteTokenizer:
    """Bytes as they are, and one more id for the end of a document. Loses nothing."""

    identity = "bytes/1"
    end_of_document = 256
    vocab_size = 257
    is_parallel = False

    def encode(self, document: bytes) -> np.ndarray:
        return np.frombuffer(document, np.uint8)

    def decode(self, tokens: np.ndarray) -> str:
        """A document that was cut inside a character shows U+FFFD there."""
        is_byte = tokens != self.end_of_document
        return tokens[is_byte].astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def bytes_per_token(self) -> np.ndarray:
        sizes = np.ones(self.vocab_size, np.int32)
        sizes[self.end_of_document] = 0
        return sizes
