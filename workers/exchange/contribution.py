"""One contribution on its way in: a buffer of the final size and what of it is already there."""

import bisect


class Contribution:
    def __init__(self, buffer: memoryview) -> None:
        self.total_bytes = len(buffer)
        self._buffer = buffer
        # Disjoint covered ranges in order; one range while chunks arrive in order. A contribution
        # of no bytes becomes complete with its one empty chunk.
        self._ranges: list[tuple[int, int]] = []

    @property
    def is_complete(self) -> bool:
        return self._ranges == [(0, self.total_bytes)]

    def view(self) -> memoryview:
        return self._buffer

    def write(self, offset: int, total_bytes: int, data: bytes | memoryview) -> int:
        """Put data at offset; returns how many of its bytes were not there before."""
        end = offset + len(data)
        if total_bytes != self.total_bytes:
            raise ValueError(f"size {total_bytes} announced, {self.total_bytes} before")
        if end > total_bytes:
            raise ValueError(f"bytes {offset}..{end} lie beyond the size {total_bytes}")
        self._buffer[offset:end] = data
        return self._cover(offset, end)

    def _cover(self, start: int, end: int) -> int:
        first = bisect.bisect_left(self._ranges, start, key=lambda covered: covered[1])
        last = bisect.bisect_right(self._ranges, end, key=lambda covered: covered[0])
        touched = self._ranges[first:last]
        before = sum(b - a for a, b in touched)
        if touched:
            start, end = min(start, touched[0][0]), max(end, touched[-1][1])
        self._ranges[first:last] = [(start, end)]
        return end - start - before
