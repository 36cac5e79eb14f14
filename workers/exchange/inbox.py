"""Reassembles contributions from chunks, for all jobs of this host. Knows nothing of gRPC.

Chunks come in any order and more than once. What belongs to an older generation or to a step that
is done is dropped and counted; what is too early (generation not joined yet, or beyond the two
steps a lockstep peer can be at) keeps its caller waiting, so that its stream is held back.

Bound: at most two steps per peer are held, so memory <= 2 x the sum of the peers' contributions,
what waits for the next ones included. It holds whatever a peer announces: memory is made only for
the size the program says, once a receive has told it, and before that for no more than
Membership.max_step_bytes a step. What announces another size is not taken, and the receive that
waits for its sender raises ContributionMismatch.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zlib_ng import zlib_ng

from workers.exchange.base import (
    ContributionMismatch,
    ExchangeAborted,
    Membership,
    PeerUnreachable,
    StepKey,
)
from workers.exchange.contribution import Contribution
from workers.exchange.recycled_memory import RecycledMemory

STEPS_HELD_PER_PEER = 2

# A specification may ask for half as many; it bounds what contributions of no bytes take.
_MOST_SEGMENTS = 8192

Part = tuple[int, int]
"""StepKey.part."""


@dataclass(frozen=True, slots=True)
class ArrivedChunk:
    key: StepKey
    member_index: int
    offset_bytes: int
    total_bytes: int
    crc32: int
    data: bytes | memoryview


class CorruptChunk(Exception):
    """The data does not have the CRC it was sent with; it must be sent again."""


class MalformedChunk(Exception):
    """The chunk contradicts itself, an earlier chunk, or the gang."""


@dataclass
class DroppedChunks:
    stale: int = 0
    duplicate: int = 0
    corrupt: int = 0
    # Of contributions that announce another size than the program says.
    mismatched: int = 0


@dataclass
class _Generation:
    membership: Membership
    memory: RecycledMemory
    # Highest step that was asked for: the only steps of interest are this one and the next.
    current_step: int | None = None
    finished_parts: set[Part] = field(default_factory=set)
    # part of the current step -> member -> bytes that the program says
    expected: dict[Part, Mapping[int, int]] = field(default_factory=dict)
    # member -> (step, part) -> contribution
    held: dict[int, dict[tuple[int, Part], Contribution]] = field(default_factory=dict)
    newest_step: dict[int, int] = field(default_factory=dict)
    unreachable: dict[int, str] = field(default_factory=dict)
    # member -> its first contribution of a size that cannot be
    mismatched: dict[int, ContributionMismatch] = field(default_factory=dict)

    def is_done(self, key: StepKey) -> bool:
        if self.current_step is None or key.step > self.current_step:
            return False
        return key.step < self.current_step or key.part in self.finished_parts

    def has_room(self, member_index: int, step: int) -> bool:
        if self.current_step is not None:
            return step < self.current_step + STEPS_HELD_PER_PEER
        steps = {held_step for held_step, _ in self.held[member_index]}
        return step in steps or len(steps) < STEPS_HELD_PER_PEER

    def size_error(self, chunk: ArrivedChunk) -> ContributionMismatch | None:
        """What is wrong with the size that the first chunk of a contribution announces."""
        key, member = chunk.key, chunk.member_index
        if key.step == self.current_step and key.part in self.expected:
            expected = self.expected[key.part][member]
            if chunk.total_bytes == expected:
                return None
            return ContributionMismatch(key, member, expected, chunk.total_bytes)
        others = sum(c.total_bytes for at, c in self.held[member].items() if at[0] == key.step)
        room = self.membership.max_step_bytes - others
        if chunk.total_bytes <= room:
            return None
        return ContributionMismatch(key, member, room, chunk.total_bytes, is_bound=True)


class Inbox:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._joined: dict[str, _Generation] = {}
        # Highest generation of a job that is over here; older ones are stale for good.
        self._over: dict[str, int] = {}
        self._aborted: dict[tuple[str, int], str] = {}
        self._closed = False
        self._dropped = DroppedChunks()

    def join(self, membership: Membership) -> None:
        with self._changed:
            job, generation = membership.job, membership.generation
            if generation <= self._over.get(job, -1) or self._is_joined(job, generation):
                raise ValueError(f"generation {generation} of job {job} was joined before")
            self._over[job] = max(self._over.get(job, -1), generation - 1)
            peers = membership.peers
            most = STEPS_HELD_PER_PEER * len(peers) * membership.max_step_bytes
            held = {member: {} for member in peers}
            self._joined[job] = _Generation(membership, RecycledMemory(most), held=held)
            self._changed.notify_all()

    def offer(self, chunk: ArrivedChunk, is_wanted: Callable[[], bool]) -> int:
        """Take one chunk in, waiting for room. Returns the bytes that were new.

        Raises CorruptChunk and MalformedChunk. Returns 0 when is_wanted() turns false while
        waiting; wake() makes it look again.
        """
        if zlib_ng.crc32(chunk.data) != chunk.crc32:
            with self._changed:
                self._dropped.corrupt += 1
            raise CorruptChunk(f"chunk at byte {chunk.offset_bytes} of {chunk.key}: CRC differs")
        with self._changed:
            generation = self._admit(chunk, is_wanted)
            if generation is None:
                return 0
            return self._store(generation, chunk)

    def membership(self, key: StepKey) -> Membership:
        """The generation of the key. Raises ExchangeAborted, and ValueError when not joined."""
        with self._changed:
            return self._require(key).membership

    def begin(self, key: StepKey, incoming_bytes: Mapping[int, int]) -> None:
        """Say that key is wanted now, and how large: earlier steps are of no interest any more.

        Raises ValueError when incoming_bytes does not name exactly the peers, or key was wanted
        before, and ExchangeAborted.
        """
        with self._changed:
            generation = self._require(key)
            if generation.is_done(key):
                raise ValueError(f"{key} was received before, or a later step was")
            peers = generation.membership.peers
            if incoming_bytes.keys() != peers.keys():
                raise ValueError(
                    f"{key}: incoming_bytes names members {sorted(incoming_bytes)},"
                    f" the peers are {sorted(peers)}"
                )
            if generation.current_step != key.step:
                generation.current_step = key.step
                generation.finished_parts.clear()
                generation.expected.clear()
                generation.memory.next_step()
                for held in generation.held.values():
                    for step, part in [at for at in held if at[0] < key.step]:
                        del held[step, part]
            generation.expected[key.part] = dict(incoming_bytes)
            self._changed.notify_all()

    def collect(self, key: StepKey, incoming_bytes: Mapping[int, int]) -> dict[int, memoryview]:
        """Wait for the contribution of every member of incoming_bytes and hand them over.

        Raises ExchangeAborted, PeerUnreachable and ContributionMismatch.
        """
        with self._changed:
            while True:
                generation = self._require(key)
                missing = self._missing(generation, key, incoming_bytes)
                if not missing:
                    break
                self._raise_for_lost(generation, missing)
                self._changed.wait()
            generation.finished_parts.add(key.part)
            at = (key.step, key.part)
            return {m: generation.held[m].pop(at).view() for m in incoming_bytes}

    def mark_unreachable(self, job: str, generation: int, member_index: int, detail: str) -> None:
        with self._changed:
            if self._is_joined(job, generation):
                self._joined[job].unreachable[member_index] = detail
                self._changed.notify_all()

    def newest_step(self, job: str, generation: int, member_index: int) -> int:
        """Newest step the member has sent anything for, 0 before the first. Being at a step, it
        holds everything it needs of all earlier ones."""
        with self._changed:
            if not self._is_joined(job, generation):
                return 0
            return self._joined[job].newest_step.get(member_index, 0)

    def abort(self, job: str, generation: int, reason: str) -> None:
        with self._changed:
            self._aborted.setdefault((job, generation), reason)
            self._changed.notify_all()

    def leave(self, job: str, generation: int) -> None:
        with self._changed:
            if self._is_joined(job, generation):
                del self._joined[job]
            self._over[job] = max(self._over.get(job, -1), generation)
            for at in [a for a in self._aborted if a[0] == job and a[1] <= generation]:
                del self._aborted[at]
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def dropped(self) -> DroppedChunks:
        with self._changed:
            return DroppedChunks(**vars(self._dropped))

    def held_bytes(self) -> int:
        """Of contributions that nobody has received yet, and waiting for the next ones."""
        with self._changed:
            return sum(
                generation.memory.idle_bytes()
                + sum(
                    contribution.total_bytes
                    for held in generation.held.values()
                    for contribution in held.values()
                )
                for generation in self._joined.values()
            )

    def _is_joined(self, job: str, generation: int) -> bool:
        joined = self._joined.get(job)
        return joined is not None and joined.membership.generation == generation

    def _require(self, key: StepKey) -> _Generation:
        if self._closed:
            raise ExchangeAborted("the exchange is closed")
        reason = self._aborted.get((key.job, key.generation))
        if reason is not None:
            raise ExchangeAborted(reason)
        if key.generation <= self._over.get(key.job, -1):
            raise ExchangeAborted(f"generation {key.generation} of job {key.job} is over here")
        if not self._is_joined(key.job, key.generation):
            raise ValueError(f"join generation {key.generation} of job {key.job} before using it")
        return self._joined[key.job]

    def _admit(self, chunk: ArrivedChunk, is_wanted: Callable[[], bool]) -> _Generation | None:
        key = chunk.key
        while not self._closed and is_wanted():
            if key.generation <= self._over.get(key.job, -1) or (
                (key.job, key.generation) in self._aborted
            ):
                self._dropped.stale += 1
                return None
            if self._is_joined(key.job, key.generation):
                generation = self._joined[key.job]
                if chunk.member_index not in generation.held:
                    raise MalformedChunk(f"{key}: member {chunk.member_index} is not a peer")
                if key.segment >= _MOST_SEGMENTS or key.round > 1:
                    raise MalformedChunk(f"{key}: no program has such a part")
                if generation.is_done(key):
                    self._dropped.stale += 1
                    return None
                if generation.has_room(chunk.member_index, key.step):
                    return generation
            self._changed.wait()
        return None

    def _store(self, generation: _Generation, chunk: ArrivedChunk) -> int:
        member, at = chunk.member_index, (chunk.key.step, chunk.key.part)
        held = generation.held[member]
        if at not in held:
            mismatch = generation.size_error(chunk)
            if mismatch is not None:
                generation.mismatched.setdefault(member, mismatch)
                self._dropped.mismatched += 1
                self._changed.notify_all()
                return 0
            held[at] = Contribution(generation.memory.give(chunk.total_bytes))
        was_complete = held[at].is_complete
        try:
            # The copy is made under the lock: a duplicate must never write into memory that was
            # handed over in the meantime.
            new_bytes = held[at].write(chunk.offset_bytes, chunk.total_bytes, chunk.data)
        except ValueError as error:
            raise MalformedChunk(f"{chunk.key}, member {member}: {error}") from error
        newest = generation.newest_step.get(member, 0)
        generation.newest_step[member] = max(newest, chunk.key.step)
        # The one chunk of a contribution of no bytes brings none.
        if was_complete or (new_bytes == 0 and chunk.data):
            self._dropped.duplicate += 1
        if held[at].is_complete:
            self._changed.notify_all()
        return new_bytes

    def _missing(
        self, generation: _Generation, key: StepKey, incoming_bytes: Mapping[int, int]
    ) -> list[int]:
        missing = []
        for member, expected in incoming_bytes.items():
            contribution = generation.held[member].get((key.step, key.part))
            if contribution is not None and contribution.total_bytes != expected:
                raise ContributionMismatch(key, member, expected, contribution.total_bytes)
            if contribution is None or not contribution.is_complete:
                missing.append(member)
        return missing

    def _raise_for_lost(self, generation: _Generation, missing: list[int]) -> None:
        for member in missing:
            if member in generation.mismatched:
                raise generation.mismatched[member]
            detail = generation.unreachable.get(member)
            if detail is not None:
                raise PeerUnreachable(member, generation.membership.peer_names[member], detail)
