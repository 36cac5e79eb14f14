"""Generates the Python code of the .proto files, or checks that the committed code is current.

python protos/generate.py [--check]
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

from grpc_tools import protoc

_ROOT = pathlib.Path(__file__).parent.parent
_SOURCES = sorted(path.name for path in (_ROOT / "protos").glob("*.proto"))


def generate(out: pathlib.Path) -> dict[str, str]:
    """Run protoc into `out`; returns the text of every generated file by name."""
    arguments = ["protoc", f"-I{_ROOT}"]
    arguments += [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    status = protoc.main([*arguments, *(f"protos/{name}" for name in _SOURCES)])
    if status != 0:
        raise SystemExit(status)
    return {path.name: path.read_text() for path in sorted((out / "protos").iterdir())}


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(pathlib.Path(scratch))
    if "--check" not in sys.argv[1:]:
        for name, text in fresh.items():
            (_ROOT / "protos" / name).write_text(text)
        return 0
    committed = {
        path.name: path.read_text()
        for pattern in ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")
        for path in (_ROOT / "protos").glob(pattern)
    }
    stale = sorted(
        name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name)
    )
    if stale:
        sys.stderr.write(f"not current: {', '.join(stale)}; run `make protos` and commit\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
