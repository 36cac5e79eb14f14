"""Which files a source has, and what is said when one cannot be used."""

import sysconfig
from pathlib import Path

import pytest

from workers.data.errors import DataError
from workers.data.sources import TextSource, find_files, read_documents


def source(*paths: str) -> TextSource:
    return TextSource("corpus", list(paths))


def write(path: Path, content: bytes = b"text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_files_are_sorted_and_each_comes_once(tmp_path: Path) -> None:
    files = [write(tmp_path / name) for name in ("b.txt", "a.txt", "deep/er/c.txt")]
    write(tmp_path / "d.md")
    patterns = (f"{tmp_path}/**/*.txt", f"{tmp_path}/b.txt", f"{tmp_path}/*.txt")
    assert find_files(source(*patterns)) == sorted(files)
    assert find_files(source(*reversed(patterns))) == sorted(files)


def test_file_whose_name_looks_like_a_glob_can_be_named(tmp_path: Path) -> None:
    odd = write(tmp_path / "notes[1].txt")
    assert find_files(source(str(odd))) == [odd]


def test_documents_are_whole_files_without_the_empty_ones(tmp_path: Path) -> None:
    write(tmp_path / "a", b"one")
    write(tmp_path / "b", b"")
    write(tmp_path / "c", b"two")
    assert list(read_documents(source(f"{tmp_path}/*"))) == [b"one", b"two"]


def test_python_stdlib_is_the_library_and_nothing_installed_or_built() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    inside = [path.relative_to(root) for path in find_files(source("python-stdlib:**/*.py"))]
    assert {Path("json/decoder.py"), Path("os.py")} <= set(inside)
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    assert all(left_out.isdisjoint(path.parts) for path in inside)
    assert not any(path.name.startswith("_sysconfigdata") for path in inside)
    for _ in read_documents(source("python-stdlib:**/*.py")):
        pass


def test_python_stdlib_star_crosses_no_folder() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    assert all(path.parent == root for path in find_files(source("python-stdlib:*.py")))
    parents = {path.parent for path in find_files(source("python-stdlib:j?on/*.py"))}
    assert parents == {root / "json"}


def test_nothing_found_names_the_pattern_and_where_it_starts(tmp_path: Path) -> None:
    write(tmp_path / "a")
    missing = f"{tmp_path}/*.txt"
    with pytest.raises(DataError, match=r"'corpus': no file matches .*\*\.txt.* start from"):
        find_files(source(f"{tmp_path}/a", missing))
    with pytest.raises(DataError, match="no file matches 'python-stdlib:nothing"):
        find_files(source("python-stdlib:nothing/*.py"))


def test_only_empty_files_are_an_error(tmp_path: Path) -> None:
    empty = write(tmp_path / "a", b"")
    with pytest.raises(DataError, match="'corpus': every file is empty"):
        list(read_documents(source(str(empty))))


def test_file_that_is_not_utf8_names_file_and_byte(tmp_path: Path) -> None:
    bad = write(tmp_path / "latin.txt", b"caf\xe9 au lait")
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8 at byte 3 .*convert it"):
        list(read_documents(source(str(bad))))


def test_file_that_cannot_be_read_is_an_error_with_the_cause() -> None:
    # A regular file that even root cannot read from its start.
    unreadable = Path("/proc/self/mem")
    if not unreadable.is_file():
        pytest.skip("needs Linux's /proc")
    with pytest.raises(DataError, match=r"cannot read .*/mem: Input/output error; make"):
        list(read_documents(source(str(unreadable))))
