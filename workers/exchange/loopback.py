"""An exchange inside one process, for tests and for gangs that live in one process.

Every member of a gang holds a LoopbackExchange on the same LoopbackLink, which plays the wire; the
addresses of a membership are not looked at. Contributions are copied once, so no memory is shared.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from workers.exchange.base import (
    ContributionMismatch,
    ExchangeAborted,
    Membership,
    PeerUnreachable,
    StepKey,
    Traffic,
)

# (job, generation, member index)
_Seat = tuple[str, int, int]


@dataclass
class LoopbackLink:
    """What the members share: who is at the table, who is gone, and what is on its way to whom."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    gone: set[_Seat] = field(default_factory=set)
    # (key, from member, to member) -> contribution
    parcels: dict[tuple[StepKey, int, int], bytearray] = field(default_factory=dict)


class LoopbackExchange:
    def __init__(self, link: LoopbackLink) -> None:
        self._link = link
        self._joined: dict[str, Membership] = {}
        self._over: dict[str, int] = {}
        self._aborted: dict[tuple[str, int], str] = {}
        self._finished: set[StepKey] = set()
        self._traffic: dict[str, Traffic] = {}
        self._is_closed = False

    def join(self, membership: Membership) -> None:
        job, generation = membership.job, membership.generation
        with self._link.changed:
            if generation <= self._over.get(job, -1):
                raise ValueError(f"generation {generation} of job {job} was joined before")
            if job in self._joined:
                self._drop(job, self._joined[job].generation)
            self._over[job] = generation - 1
            self._joined[job] = membership
            self._link.changed.notify_all()

    def send(self, key: StepKey, outgoing: Sequence[memoryview], to: Collection[int]) -> None:
        with self._link.changed:
            membership = self._require(key)
            if set(to) - membership.peers.keys():
                raise ValueError(f"{key}: the peers are {sorted(membership.peers)}")
            payload = b"".join(view.cast("B") for view in outgoing if view.nbytes)
            for member in to:
                self._link.parcels[key, membership.member_index, member] = bytearray(payload)
                pod = membership.peer_names[member]
                sent = self._traffic.get(pod, Traffic()).sent_bytes
                self._traffic[pod] = Traffic(sent_bytes=sent + len(payload))
            self._link.changed.notify_all()

    def receive(self, key: StepKey, incoming_bytes: Mapping[int, int]) -> Mapping[int, memoryview]:
        with self._link.changed:
            membership = self._require(key)
            if incoming_bytes.keys() != membership.peers.keys():
                raise ValueError(f"{key}: the peers are {sorted(membership.peers)}")
            if any(key.step < done.step or key == done for done in self._finished):
                raise ValueError(f"{key} was received before, or a later step was")
            while not self._has_all(self._require(key), key, incoming_bytes):
                self._link.changed.wait()
            self._finished = {done for done in self._finished if done.step == key.step} | {key}
            me = membership.member_index
            return {
                m: memoryview(self._link.parcels.pop((key, m, me))) for m in sorted(incoming_bytes)
            }

    def abort(self, job: str, generation: int, reason: str) -> None:
        with self._link.changed:
            self._aborted.setdefault((job, generation), reason)
            self._link.changed.notify_all()

    def leave(self, job: str, generation: int) -> None:
        with self._link.changed:
            self._drop(job, generation)

    def traffic(self) -> Mapping[str, Traffic]:
        with self._link.changed:
            return dict(self._traffic)

    def held_bytes(self) -> int:
        """Payload on its way to this member."""
        with self._link.changed:
            return sum(
                len(parcel)
                for (key, _, to), parcel in self._link.parcels.items()
                if key.job in self._joined and to == self._joined[key.job].member_index
            )

    def close(self) -> None:
        with self._link.changed:
            self._is_closed = True
            for membership in self._joined.values():
                seat = (membership.job, membership.generation, membership.member_index)
                self._link.gone.add(seat)
            self._link.changed.notify_all()

    def _drop(self, job: str, generation: int) -> None:
        membership = self._joined.get(job)
        self._over[job] = max(self._over.get(job, -1), generation)
        self._aborted.pop((job, generation), None)
        if membership is None or membership.generation != generation:
            return
        del self._joined[job]
        self._finished = {key for key in self._finished if key.job != job}
        me = membership.member_index
        for at in [a for a in self._link.parcels if a[0].job == job and a[2] == me]:
            if at[0].generation <= generation:
                del self._link.parcels[at]
        self._link.changed.notify_all()

    def _require(self, key: StepKey) -> Membership:
        if self._is_closed:
            raise ExchangeAborted("the exchange is closed")
        if (key.job, key.generation) in self._aborted:
            raise ExchangeAborted(self._aborted[key.job, key.generation])
        if key.generation <= self._over.get(key.job, -1):
            raise ExchangeAborted(f"generation {key.generation} of job {key.job} is over here")
        membership = self._joined.get(key.job)
        if membership is None or membership.generation != key.generation:
            raise ValueError(f"join generation {key.generation} of job {key.job} before using it")
        return membership

    def _has_all(
        self, membership: Membership, key: StepKey, incoming_bytes: Mapping[int, int]
    ) -> bool:
        complete = True
        for member, expected in incoming_bytes.items():
            parcel = self._link.parcels.get((key, member, membership.member_index))
            if parcel is not None and len(parcel) != expected:
                raise ContributionMismatch(key, member, expected, len(parcel))
            if parcel is None and (key.job, key.generation, member) in self._link.gone:
                pod = membership.peer_names[member]
                raise PeerUnreachable(member, pod, "its exchange is closed")
            complete = complete and parcel is not None
        return complete
