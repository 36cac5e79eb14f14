"""Trains a SentencePiece model as PaLM's was (arXiv 2204.02311, section 2).

Lossless and reversible: text is not normalised, runs of spaces stay and may become one token, which
matters for code; digits are tokens of their own; characters outside the vocabulary become their
UTF-8 bytes. The same documents and options give the same bytes on every machine.
"""

import io
from collections.abc import Iterable, Iterator

from workers.data.errors import DataError
from workers.data.sentencepiece_tokenizer import sentencepiece

UNKNOWN, END_OF_DOCUMENT = 0, 1
"""Ids of the pieces that stand for no text."""

# Sums of floating point are split by thread, so the number of threads is part of the result: it
# must not follow the machine.
_THREADS = 8

# The library passes over longer sentences than 4192 bytes; a character has 4 bytes at most.
_LINE_CHARACTERS = 1024


def train(
    documents: Iterable[bytes],
    vocab_size: int,
    character_coverage: float = 0.9999,
    max_lines: int = 1_000_000,
) -> bytes:
    """A model with `vocab_size` pieces, 258 of them bytes, unknown and end of document.

    The vocabulary holds the most frequent characters, as many as make up the coverage of the text.
    Of more than `max_lines` lines it samples so many, since all are held in memory. Raises
    DataError when the library cannot train on them.
    """
    library = sentencepiece()
    library.set_random_generator_seed(0)
    model = io.BytesIO()
    unreadable: list[DataError] = []

    def lines() -> Iterator[str]:
        try:
            yield from _lines(documents)
        except DataError as error:
            # The library would tell of it in words of its own.
            unreadable.append(error)
            raise

    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            unk_id=UNKNOWN,
            eos_id=END_OF_DOCUMENT,
            bos_id=-1,
            pad_id=-1,
            input_sentence_size=max_lines,
            shuffle_input_sentence=True,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, ValueError, OSError) as error:
        if unreadable:
            raise unreadable[0] from error
        raise DataError(
            "tokenizer",
            f"no vocabulary of {vocab_size} could be trained: {_without_place(error)}",
            "choose another size or give other text",
        ) from error
    return model.getvalue()


def _without_place(error: Exception) -> str:
    """The sentence at the end of what the library says; its place in C++ comes before."""
    return str(error).rpartition("] ")[2].rstrip(".")


def _lines(documents: Iterable[bytes]) -> Iterator[str]:
    for document in documents:
        for line in document.decode("utf-8").split("\n"):
            for start in range(0, len(line), _LINE_CHARACTERS):
                yield line[start : start + _LINE_CHARACTERS]
