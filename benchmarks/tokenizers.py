"""Tokenizers: palm-tiny with a trained vocabulary against palm-tiny on bytes after the same model
FLOPs, in bits per byte of held-out text, one pod.

A larger vocabulary makes a token dearer (6N + 12LHQT, and N has the embedding in it), so the job on
bytes takes more steps. The vocabulary is trained without the end of the text, some of which is held
out. Every seed is a pair of jobs.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile

from benchmarks import jobs, table
from landbridge.client import Client
from landbridge.local import local_controller
from workers.data.files import digest_files, find_files
from workers.data.sentencepiece_training import train
from workers.data.sources import read_documents, source_of

VOCABULARY = 4096
HELD_OUT = 0.02

_SOURCE = {"name": "lib", "kind": "text", "paths": ["python-stdlib:**/*.py"]}
_NOT_LOOKED_AT = 2 * HELD_OUT
"""Share of the text, at its end, that the vocabulary is trained without: more than is held out,
since that is a share of the tokens and this one of the bytes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """What one tokenizer's jobs have in common."""

    name: str
    sections: jobs.Document
    steps: int
    flops: float
    """Of a whole job, by the model."""


def run(*, quick: bool) -> table.Result:
    seeds, steps, lines = (1, 24, 50_000) if quick else (3, 120, 1_000_000)
    with tempfile.TemporaryDirectory(prefix="landbridge-tokenizers-") as name:
        state = pathlib.Path(name)
        vocabulary = state / "vocabulary.model"
        vocabulary.write_bytes(train(_documents(), VOCABULARY, max_lines=lines))
        with (
            local_controller(
                state_dir=state, arguments=["--pods", "1", "--devices-per-host", "1"]
            ) as controller,
            Client(controller.address) as client,
        ):
            client.wait_for_pods(1)
            on_bytes = _side(client, "bytes", {"data": {"sources": [_SOURCE]}}, steps)
            tokenizer = {"kind": "sentencepiece", "path": str(vocabulary)}
            trained = {
                "model": {"preset": "palm-tiny", "vocab_size": VOCABULARY},
                "data": {"sources": [_SOURCE], "tokenizer": tokenizer},
            }
            on_pieces = _side(client, "SentencePiece", trained, steps, on_bytes.flops)
            pairs = [
                (_bits_per_byte(client, on_bytes, seed), _bits_per_byte(client, on_pieces, seed))
                for seed in range(seeds)
            ]
    theirs, ours = zip(*pairs, strict=True)
    ratio = table.median([piece / byte for byte, piece in pairs])
    rows = [
        table.Row(on_bytes.name, None, "", seeds, None, _figures(on_bytes, theirs)),
        table.Row(on_pieces.name, ratio, "< 1", seeds, ratio < 1, _figures(on_pieces, ours)),
    ]
    title = "Tokenizers: bits per byte of held-out text after the same model FLOPs; ratio to bytes"
    return table.Result("tokenizers", title, rows)


def _documents() -> list[bytes]:
    """All but the end of the text."""
    source = source_of(_SOURCE)
    files = digest_files(source.name, find_files(source.name, source.paths))
    documents = list(read_documents(source, files))
    left_out = _NOT_LOOKED_AT * sum(map(len, documents))
    while left_out > 0:
        left_out -= len(documents.pop())
    return documents


def _side(
    client: Client, name: str, sections: jobs.Document, steps: int, budget: float | None = None
) -> Side:
    """So many steps; or, with a budget, as many as it pays for and no more."""
    plan = client.plan(jobs.spec(steps, **sections))
    flops = plan["model_flops_per_token"] * plan["tokens_per_step"]
    if budget is not None:
        steps = int(budget / flops)
    vocabulary = plan["spec"]["model"].get("vocab_size")
    return Side(f"{name}, {vocabulary} tokens", sections, steps, steps * flops)


def _bits_per_byte(client: Client, side: Side, seed: int) -> float:
    """After the last step of one job."""
    evaluate = {"every": side.steps, "share": HELD_OUT, "sequences": 64}
    job = jobs.succeeded(
        client, jobs.spec(side.steps, **side.sections, train={"seed": seed, "eval": evaluate})
    )
    return jobs.last_evaluation(job, side.steps)["bits_per_byte"]


def _figures(side: Side, bits: tuple[float, ...]) -> dict[str, float | str]:
    return {
        "bits per byte": table.median(bits),
        "lowest": min(bits),
        "highest": max(bits),
        "steps": side.steps,
        "model TFLOPs": side.flops / 1e12,
    }
