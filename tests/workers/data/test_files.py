"""Which files a source has, and what is said when one cannot be used."""

import hashlib
import sysconfig
from pathlib import Path

import pytest

from workers.data.errors import DataError
from workers.data.files import digest_files, find_files


def write(path: Path, content: bytes = b"text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_files_are_sorted_and_each_comes_once(tmp_path: Path) -> None:
    files = [write(tmp_path / name) for name in ("b.txt", "a.txt", "deep/er/c.txt")]
    write(tmp_path / "d.md")
    patterns = (f"{tmp_path}/**/*.txt", f"{tmp_path}/b.txt", f"{tmp_path}/*.txt")
    assert find_files("corpus", patterns) == sorted(files)
    assert find_files("corpus", patterns[::-1]) == sorted(files)


def test_file_whose_name_looks_like_a_glob_can_be_named(tmp_path: Path) -> None:
    odd = write(tmp_path / "notes[1].txt")
    assert find_files("corpus", [str(odd)]) == [odd]


def test_python_stdlib_is_the_library_and_nothing_installed_or_built() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    found = find_files("corpus", ["python-stdlib:**/*.py"])
    inside = [path.relative_to(root) for path in found]
    assert {Path("json/decoder.py"), Path("os.py")} <= set(inside)
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    assert all(left_out.isdisjoint(path.parts) for path in inside)
    assert not any(path.name.startswith("_sysconfigdata") for path in inside)


def test_python_stdlib_star_crosses_no_folder() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    found = find_files("corpus", ["python-stdlib:*.py"])
    assert all(path.parent == root for path in found)
    parents = {path.parent for path in find_files("corpus", ["python-stdlib:j?on/*.py"])}
    assert parents == {root / "json"}


def test_nothing_found_names_the_pattern_and_where_it_starts(tmp_path: Path) -> None:
    write(tmp_path / "a")
    missing = f"{tmp_path}/*.txt"
    with pytest.raises(DataError, match=r"'corpus': no file matches .*\*\.txt.* start from"):
        find_files("corpus", [f"{tmp_path}/a", missing])
    with pytest.raises(DataError, match="no file matches 'python-stdlib:nothing"):
        find_files("corpus", ["python-stdlib:nothing/*.py"])


def test_digests_are_of_the_contents(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, name.encode()) for name in ("a", "b")]
    for file, path in zip(digest_files("corpus", paths), paths, strict=True):
        assert file.path == path
        assert file.sha256 == hashlib.sha256(path.name.encode()).hexdigest()


def test_file_that_cannot_be_read_is_an_error_with_the_cause() -> None:
    # A regular file that even root cannot read from its start.
    unreadable = Path("/proc/self/mem")
    if not unreadable.is_file():
        pytest.skip("needs Linux's /proc")
    with pytest.raises(DataError, match=r"cannot read .*/mem: Input/output error; make"):
        digest_files("corpus", [unreadable])
