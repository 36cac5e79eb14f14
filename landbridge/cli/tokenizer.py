"""Commands about tokenizers. They run here, without a controller, and need the extra `worker`."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landbridge.cli import local_specs, output
from landbridge.cli.options import Json
from landbridge.errors import LandbridgeError

if TYPE_CHECKING:
    from workers.data.sources import Source

app = typer.Typer(name="tokenizer", help="Make tokenizers.", rich_markup_mode=None)

_KINDS = {".jsonl": "jsonl", ".array_record": "array_record"}
_SPEC_SUFFIXES = {".yaml", ".yml", ".json"}


@app.callback()
def _group() -> None:
    """Make tokenizers."""


@app.command()
def train(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC|PATH...",
            help="A job spec, for its data.sources; or globs of text, .jsonl or .array_record.",
        ),
    ],
    vocab_size: Annotated[int, typer.Option(min=260, max=1 << 20, help="Tokens, all kinds.")],
    out: Annotated[pathlib.Path, typer.Option(dir_okay=False, help="The model file to write.")],
    character_coverage: Annotated[
        float,
        typer.Option(min=0.9, max=1.0, help="Share of the text whose characters become tokens."),
    ] = 0.9999,
    max_lines: Annotated[
        int, typer.Option(min=1, help="Lines to train on at most, a sample of all.")
    ] = 1_000_000,
    field: Annotated[str, typer.Option(help="Of the objects in .jsonl files.")] = "text",
    json: Json = False,
) -> int:
    """Train a SentencePiece tokenizer on the sources of a job, as PaLM's was: lossless, digits
    apart, bytes for what it does not know. Every source counts once, whatever its weight."""
    # Only now: `landbridge --help` needs none of this.
    import hashlib

    try:
        from workers.data import sentencepiece_training
        from workers.data.errors import DataError
    except ImportError as error:
        raise local_specs.not_installed(error) from error
    _check_folder(out)
    try:
        counted = _Counted(_documents(_sources(what, field)))
        model = sentencepiece_training.train(counted, vocab_size, character_coverage, max_lines)
        out.write_bytes(model)
    except DataError as error:
        raise LandbridgeError("data", str(error)) from error
    except OSError as error:
        raise LandbridgeError("output", f"cannot write {out}: {error.strerror}") from error
    answer = {
        "path": str(out),
        "sha256": hashlib.sha256(model).hexdigest(),
        "vocab_size": vocab_size,
        "documents": counted.documents,
        "bytes": counted.bytes,
    }
    return output.answer(answer, json, _show_trained)


class _Counted:
    """Documents on their way through, counted."""

    def __init__(self, documents: Iterable[bytes]) -> None:
        self._documents = documents
        self.documents = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for document in self._documents:
            self.documents += 1
            self.bytes += len(document)
            yield document


def _show_trained(answer: dict[str, Any]) -> None:
    output.say(
        f"trained {answer['vocab_size']} tokens on {answer['documents']} documents, "
        f"{answer['bytes']} bytes; in the job spec, with the model's vocab_size no smaller:"
    )
    print(f"tokenizer: {{kind: sentencepiece, path: {answer['path']}}}")


def _check_folder(out: pathlib.Path) -> None:
    """Training may take long; what can be known before is told before."""
    if not out.absolute().parent.is_dir():
        raise typer.BadParameter(f"--out {out}: there is no folder {out.absolute().parent}")


def _sources(what: Sequence[str], field: str) -> list[Source]:
    from workers.data.sources import source_of

    if len(what) == 1 and pathlib.Path(what[0]).suffix in _SPEC_SUFFIXES:
        return [source_of(entry) for entry in local_specs.sources(pathlib.Path(what[0]))]
    return [source_of(_entry(path, field)) for path in what]


def _entry(path: str, field: str) -> dict[str, Any]:
    kind = _KINDS.get(pathlib.Path(path).suffix, "text")
    return {"name": path, "kind": kind, "paths": [path], "field": field}


def _documents(sources: Iterable[Source]) -> Iterator[bytes]:
    from workers.data.files import digest_files, find_files
    from workers.data.sources import read_documents

    for source in sources:
        files = digest_files(source.name, find_files(source.name, source.paths))
        yield from read_documents(source, files)
