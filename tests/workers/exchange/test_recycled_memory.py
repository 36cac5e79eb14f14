"""Memory is given out again, but never while anything refers to it."""

import gc

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.exchange.recycled_memory import RecycledMemory


def address(view: memoryview) -> int:
    return np.frombuffer(view, np.uint8).ctypes.data


def test_what_nobody_refers_to_is_given_out_again() -> None:
    memory = RecycledMemory(1000)
    view = memory.give(300)
    first = address(view)
    view[:] = bytes(300)
    del view
    assert memory.idle_bytes() == 300
    assert address(memory.give(300)) == first


def test_a_slice_and_an_array_over_it_keep_the_memory() -> None:
    memory = RecycledMemory(10_000)
    kept = np.frombuffer(memory.give(640)[64:128], np.float32).reshape(4, 4)
    assert memory.idle_bytes() == 0
    assert address(memory.give(640)) != kept.ctypes.data - 64
    assert memory.idle_bytes() == 640
    del kept
    assert memory.idle_bytes() == 1280


def test_arrays_of_jax_keep_the_memory_that_they_did_not_copy() -> None:
    memory = RecycledMemory(1 << 22)
    view = memory.give(1 << 20)
    view[:] = bytes([1]) * (1 << 20)
    on_device = jax.device_put(np.frombuffer(view, np.float32), jax.devices("cpu")[0])
    assert on_device.unsafe_buffer_pointer() == address(view)
    before = np.array(on_device)
    del view
    for _ in range(3):
        again = memory.give(1 << 20)
        again[:] = bytes(1 << 20)
    np.testing.assert_array_equal(np.asarray(on_device), before)
    del on_device, again
    gc.collect()
    # `again` was two blocks by turns.
    assert memory.idle_bytes() == 3 << 20


def test_what_waits_for_two_steps_goes() -> None:
    memory = RecycledMemory(1000)
    memory.give(100)
    for _ in range(2):
        memory.next_step()
        assert memory.idle_bytes() == 100
    memory.next_step()
    assert memory.idle_bytes() == 0


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=60))
def test_idle_memory_stays_within_the_bound(requests: list[tuple[int, bool]]) -> None:
    memory, kept = RecycledMemory(1000), []
    for num_bytes, keeps in requests:
        view = memory.give(num_bytes)
        assert len(view) == num_bytes
        view[:] = bytes([len(kept) % 256]) * num_bytes
        if keeps:
            kept.append((len(kept) % 256, view))
        del view
        given_out = sum(len(each) for _, each in kept)
        assert memory.idle_bytes() <= max(0, 1000 - given_out)
    for content, view in kept:
        assert bytes(view) == bytes([content]) * len(view)
