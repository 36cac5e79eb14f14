"""The byte tokenizer: a token is a byte, and one more id ends a document. Loses nothing."""

import numpy as np


class ByteTokenizer:
    identity = "bytes/1"
    end_of_document = 256
    vocab_size = 257

    def encode(self, document: bytes) -> np.ndarray:
        """uint16 ids, end of document not included."""
        return np.frombuffer(document, np.uint8).astype(np.uint16)

    def decode(self, tokens: np.ndarray) -> str:
        """Text of the tokens; a document that was cut inside a character shows U+FFFD there."""
        is_byte = tokens != self.end_of_document
        return tokens[is_byte].astype(np.uint8).tobytes().decode("utf-8", errors="replace")
