"""The one thread that changes the store.

A write that fails is the last. Steps written after some that were not would leave a hole, which
nobody could see: hosts are asked only for what follows the newest step on record.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Writer:
    """Does what it is told in the order it is told."""

    def __init__(self, may_write: Callable[[], None]) -> None:
        """`may_write` raises when this process must not write any more; asked before every
        write."""
        self._may_write = may_write
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "store-writer")
        self.failure: BaseException | None = None
        """What the first write raised that failed for good."""

    async def write(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns when it is written; raises what the write raises, and every later one too."""
        return await asyncio.wrap_future(self._submit(write, *args, **kwargs))

    def write_behind(self, write: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Returns at once; what the write raises is raised by the next `check` after it."""
        self._submit(write, *args, **kwargs)

    async def try_to(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A write that leaves no hole when it fails."""
        return await asyncio.wrap_future(self._thread.submit(self._checked, write, *args, **kwargs))

    def check(self) -> None:
        """Raises why nothing can be written any more."""
        if self.failure is not None:
            raise self.failure
        self._may_write()

    def close(self) -> None:
        """Returns when everything is written."""
        self._thread.shutdown()

    def _submit(
        self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        return self._thread.submit(self._for_good, write, *args, **kwargs)

    def _for_good(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return self._checked(write, *args, **kwargs)
        except BaseException as error:
            self.failure = self.failure or error
            raise

    def _checked(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.check()
        return write(*args, **kwargs)
