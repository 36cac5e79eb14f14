"""What the inbox makes of sizes that peers announce: memory only for what the program says."""

import dataclasses
import zlib

import pytest

from workers.exchange.base import ContributionMismatch, Membership, StepKey
from workers.exchange.inbox import ArrivedChunk, Inbox, MalformedChunk

MAX_STEP_BYTES = 1000
KEY = StepKey("job", 1, 1)


@pytest.fixture
def inbox() -> Inbox:
    """Of member 0 in a gang of two."""
    inbox = Inbox()
    inbox.join(Membership("job", 1, 0, {1: "nowhere:1"}, {1: "pod-1"}, MAX_STEP_BYTES))
    return inbox


def offer(inbox: Inbox, total_bytes: int, key: StepKey = KEY, data: bytes = b"") -> int:
    chunk = ArrivedChunk(key, 1, 0, total_bytes, zlib.crc32(data), data)
    return inbox.offer(chunk, lambda: True)


def test_size_beyond_the_bound_before_it_is_wanted_takes_no_memory_and_fails_the_receive(inbox):
    assert offer(inbox, MAX_STEP_BYTES + 1, data=b"x") == 0
    assert inbox.held_bytes() == 0
    assert inbox.dropped().mismatched == 1
    inbox.begin(KEY, {1: 10})
    with pytest.raises(ContributionMismatch, match=r"sends 1001 bytes.*at most 1000"):
        inbox.collect(KEY, {1: 10})


def test_size_that_no_machine_has_takes_no_memory(inbox):
    assert offer(inbox, 1 << 62, data=b"x") == 0
    assert inbox.held_bytes() == 0


def test_size_of_the_bound_before_it_is_wanted_is_taken(inbox):
    data = bytes(MAX_STEP_BYTES)
    assert offer(inbox, MAX_STEP_BYTES, data=data) == MAX_STEP_BYTES
    inbox.begin(KEY, {1: MAX_STEP_BYTES})
    assert inbox.collect(KEY, {1: MAX_STEP_BYTES})[1] == data


def test_size_other_than_the_program_says_takes_no_memory_and_fails_the_receive(inbox):
    inbox.begin(KEY, {1: 10})
    assert offer(inbox, 11, data=b"x") == 0
    assert inbox.held_bytes() == 0
    with pytest.raises(ContributionMismatch, match="sends 11 bytes, the program says 10"):
        inbox.collect(KEY, {1: 10})


def test_early_size_within_the_bound_that_the_program_contradicts_fails_the_receive(inbox):
    offer(inbox, 11, data=b"x")
    inbox.begin(KEY, {1: 10})
    with pytest.raises(ContributionMismatch, match="sends 11 bytes, the program says 10"):
        inbox.collect(KEY, {1: 10})


@pytest.mark.parametrize("part", [{"segment": 8192}, {"round": 2}])
def test_part_that_no_program_has_is_refused_and_takes_no_memory(inbox, part):
    with pytest.raises(MalformedChunk, match="no program has such a part"):
        offer(inbox, 10, dataclasses.replace(KEY, **part), b"x")
    assert inbox.held_bytes() == 0


def test_segments_of_one_step_share_the_bound(inbox):
    for segment in range(4):
        offer(inbox, 400, StepKey("job", 1, 1, segment), b"x")
    assert inbox.held_bytes() == 800
    assert inbox.dropped().mismatched == 2


def test_next_step_is_bounded_by_itself(inbox):
    inbox.begin(KEY, {1: 10})
    for step in (1, 2):
        offer(inbox, 10 if step == 1 else MAX_STEP_BYTES, StepKey("job", 1, step), b"x")
    assert inbox.held_bytes() == 10 + MAX_STEP_BYTES
    assert offer(inbox, 1, StepKey("job", 1, 2, 1), b"x") == 0


def test_wrong_size_for_the_next_step_does_not_spoil_this_one(inbox):
    inbox.begin(KEY, {1: 1})
    offer(inbox, MAX_STEP_BYTES + 1, StepKey("job", 1, 2), b"x")
    offer(inbox, 1, data=b"y")
    assert inbox.collect(KEY, {1: 1})[1] == b"y"
    following = StepKey("job", 1, 2)
    inbox.begin(following, {1: 1})
    with pytest.raises(ContributionMismatch, match=r"step 2.*sends 1001"):
        inbox.collect(following, {1: 1})


def test_what_comes_twice_is_counted_with_bytes_and_without(inbox):
    for segment, data in enumerate((b"", b"x")):
        for _ in range(2):
            offer(inbox, len(data), StepKey("job", 1, 1, segment), data)
    assert inbox.dropped().duplicate == 2
