import pytest

from benchmarks import namespaces


@pytest.fixture(scope="session")
def namespaces_are_possible() -> None:
    """Skips where they are not, and says why."""
    try:
        with namespaces.lab(1, 1e6):
            pass
    except namespaces.NoNamespaces as reason:
        pytest.skip(str(reason))
