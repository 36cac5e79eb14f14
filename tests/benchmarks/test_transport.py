"""The transport table in its short form, and what it measures with."""

from benchmarks import transport
from benchmarks.cpu_clock import CpuClock
from benchmarks.peak_memory import PeakMemory


def test_transport_is_compared_with_a_stream_and_with_its_bound() -> None:
    result = transport.run(quick=True)
    *rates, of_sender, of_receiver = result.rows
    for rate in rates:
        assert rate.ratio is not None and 0.1 < rate.ratio < 10
        assert rate.figures["bare MB/s"] and rate.figures["exchange MB/s"]
    # A host cannot hold less than what it sends, nor more than the bound.
    for row in (of_sender, of_receiver):
        assert row.is_met, row
        assert float(row.figures["grown MB"]) > transport.NUM_BYTES / 1e6 / 2


def test_memory_that_came_and_went_is_in_the_peak() -> None:
    memory = PeakMemory()
    taken = bytearray(64 << 20)
    taken[::4096] = b"x" * len(taken[::4096])
    del taken
    assert memory.growth() > 60 << 20


def test_processor_time_leaves_out_the_two_threads_that_worked_most() -> None:
    clock = CpuClock([])
    before = {7: {"1": 100, "2": 100, "3": 100}}
    after = {7: {"1": 5_000_000_100, "2": 1_100, "3": 3_000_000_100, "4": 2_000_000}}
    assert clock.beside_computing(before, after) == (1_000 + 2_000_000) / 1e9
