from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CORE = sorted((ROOT / "controller" / "core").glob("*.py"))

IMPURE = {
    *("asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "pathlib"),
    *("queue", "random", "secrets", "select", "shutil", "signal", "socket", "subprocess", "sys"),
    *("tempfile", "threading", "time", "urllib", "uuid"),
}
"""Of the standard library: what reads a clock, the world or chance."""


def _imported(path: pathlib.Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_core_imports_only_pure_parts_of_the_standard_library_and_itself(
    path: pathlib.Path,
) -> None:
    for name in _imported(path):
        top = name.partition(".")[0]
        own = name == "controller.core" or name.startswith("controller.core.")
        assert own or (top in sys.stdlib_module_names and top not in IMPURE), name


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_core_calls_nothing_that_reads_or_writes(path: pathlib.Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {
        n.func.id
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}


def test_core_imported_alone_pulls_in_nothing_of_the_shell() -> None:
    """What the modules import in turn counts too."""
    modules = ", ".join(f"controller.core.{path.stem}" for path in CORE if path.stem != "__init__")
    answer = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    loaded = set(answer.stdout.split())
    ours = {name for name in loaded if name.startswith("controller.")}
    assert all(name.startswith("controller.core") for name in ours)
    assert not loaded & {"jax", "grpc", "sqlalchemy", "fastapi", "pydantic", "asyncio"}
