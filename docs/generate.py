"""Writes the documents that are drawn from code: python docs/generate.py [--check].

With --check nothing is written, and the exit status is 1 when a document is not current.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import palm_tables
import spec_reference

from controller.core import job

DOCS = pathlib.Path(__file__).parent

_JOB_STATES = """\
# States of a job

Drawn from the transition table in `controller/core/job.py` by `docs/generate.py`; a move that is
not here is an error. Every state comes with a reason: a code and a sentence with numbers.

```mermaid
{diagram}```
"""


def documents() -> dict[pathlib.Path, str]:
    """What every generated document must hold."""
    return {
        DOCS / "job-states.md": _JOB_STATES.format(diagram=job.diagram()),
        DOCS / "palm.md": palm_tables.document(),
        DOCS / "spec.md": spec_reference.document(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated documents.")
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    check = parser.parse_args().check
    stale = [
        path
        for path, text in documents().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if check:
            sys.stderr.write(f"{path.name} is not current; run python docs/generate.py\n")
        else:
            path.write_text(documents()[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
