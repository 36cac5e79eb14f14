import jax
import numpy as np

from workers.exchange.recycled_memory import RecycledMemory
from workers.payload import Payload
from workers.program import load, read_bundle


def gradients(program):
    buffers = program.buffers(["grads_head", "grads_table", "metrics"])
    generator = np.random.default_rng(0)
    return buffers, [
        jax.device_put(generator.normal(size=b.shape).astype(b.dtype), b.sharding) for b in buffers
    ]


def test_payload_carries_every_distinct_byte_once(bigram):
    program = load(*read_bundle(bigram.data, bigram.digest))
    buffers, arrays = gradients(program)
    payload = Payload(buffers)
    assert payload.num_bytes == sum(array.nbytes for array in arrays)
    assert sum(view.nbytes for view in payload.views(arrays, 1)) == payload.num_bytes


def test_payload_received_is_the_array_sent_bit_for_bit(bigram):
    program = load(*read_bundle(bigram.data, bigram.digest))
    buffers, arrays = gradients(program)
    payload = Payload(buffers)
    wire = bytearray(b"".join(payload.views(arrays, 1)))
    received = payload.arrays(memoryview(wire))
    for sent, got in zip(arrays, received, strict=True):
        assert got.sharding == sent.sharding
        np.testing.assert_array_equal(np.asarray(got), np.asarray(sent))


def test_arrays_in_recycled_memory_may_be_donated(bigram):
    """Whatever the device makes of its own, what was received is not written over."""
    program = load(*read_bundle(bigram.data, bigram.digest))
    buffers, arrays = gradients(program)
    payload = Payload(buffers)
    memory = RecycledMemory(4 * payload.num_bytes)
    wire = memory.give(payload.num_bytes)
    wire[:] = b"".join(payload.views(arrays, 1))
    before = bytes(wire)
    received, kept = payload.arrays(wire), payload.arrays(wire)
    doubled = jax.jit(lambda xs: [x + x for x in xs], donate_argnums=0)(received)
    assert bytes(wire) == before
    del wire, received
    for _ in range(2):
        memory.give(payload.num_bytes)[:] = bytes(payload.num_bytes)
    for sent, twice, still in zip(arrays, doubled, kept, strict=True):
        np.testing.assert_array_equal(np.asarray(twice), 2 * np.asarray(sent))
        np.testing.assert_array_equal(np.asarray(still), np.asarray(sent))


def test_payload_of_two_subtrees_is_one_after_the_other(bigram):
    program = load(*read_bundle(bigram.data, bigram.digest))
    buffers, arrays = gradients(program)
    payload = Payload(buffers)
    once = b"".join(payload.views(arrays, 1))
    assert b"".join(payload.views([*arrays, *arrays], 2)) == once + once


def test_blocks_are_numbered_once_for_every_distinct_shard(bigram):
    program = load(*read_bundle(bigram.data, bigram.digest))
    buffers, arrays = gradients(program)
    payload = Payload(buffers)
    held = {device: payload.shards_on(device, arrays) for device in payload.devices}
    found = {device: payload.blocks_on(device, 16) for device in held}
    for device, shards in held.items():
        assert len(found[device]) == sum(-(-shard.size // 16) for shard in shards)
    numbers = np.concatenate(list(found.values()))
    assert sorted(numbers.tolist()) == list(range(len(numbers)))
