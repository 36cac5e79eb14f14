"""Hosts of one pod agree, step by step, whether the step is applied and whether the pod leaves.

No host may enter apply_update while another one lacks its contributions: the collective inside
would hang the pod. The lead (host 0) answers when all hosts have spoken, or as soon as one refuses.
What it has answered for a step it never takes back, and all hosts hear the same.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from protos import link_pb2, link_pb2_grpc
from workers.exchange.base import ExchangeAborted, LeadUnreachable, StepKey
from workers.exchange.channel import CLIENT_OPTIONS, TOKEN_KEY


@dataclass(frozen=True, slots=True)
class Agreement:
    apply: bool
    # The pod leaves the job after this step; the same at all its hosts.
    leave: bool


class PodAgreement(Protocol):
    def agree(self, key: StepKey, holds_all: bool) -> Agreement:
        """Block until decided, whatever the segment.

        Raises LeadUnreachable, and ExchangeAborted when the generation is over or this is closed.
        """
        ...

    def request_leave(self, job: str, generation: int) -> None:
        """Ask for the job to be left at the next decision; only the lead's word counts."""
        ...

    def forget(self, job: str, generation: int) -> None:
        """Free what is remembered about the generation, once no host asks about it any more."""
        ...

    def close(self) -> None: ...


class SoleAgreement:
    """A pod of one host agrees with itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leaving: set[tuple[str, int]] = set()

    def agree(self, key: StepKey, holds_all: bool) -> Agreement:
        with self._lock:
            return Agreement(holds_all, (key.job, key.generation) in self._leaving)

    def request_leave(self, job: str, generation: int) -> None:
        with self._lock:
            self._leaving.add((job, generation))

    def forget(self, job: str, generation: int) -> None:
        with self._lock:
            self._leaving.discard((job, generation))

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class _Ballot:
    agreed_hosts: set[int] = field(default_factory=set)
    decision: Agreement | None = None


@dataclass
class _Generation:
    leave: bool = False
    ballots: dict[int, _Ballot] = field(default_factory=dict)


class StepAgreement:
    """The lead's side, for itself and, through LinkService, for the other hosts of its pod."""

    def __init__(
        self, num_hosts: int, on_refused: Callable[[StepKey, str], None] | None = None
    ) -> None:
        """on_refused(key, reason) is called, from any thread, when a step is refused: the lead
        aborts its own swap of that generation there, which may be waiting in vain."""
        self._num_hosts = num_hosts
        self._on_refused = on_refused
        self._changed = threading.Condition()
        self._generations: dict[tuple[str, int], _Generation] = {}
        # Newest forgotten generation by job: who asks about it late is refused.
        self._over: dict[str, int] = {}
        self._is_closed = False

    def agree(self, key: StepKey, holds_all: bool) -> Agreement:
        answer = self.answer(key, 0, holds_all, lambda: True)
        if holds_all and not answer.apply:
            with self._changed:
                reason = self._stop_reason(key)
            if reason is not None:
                raise ExchangeAborted(reason)
        return answer

    def answer(
        self, key: StepKey, host_index: int, holds_all: bool, is_asking: Callable[[], bool]
    ) -> Agreement:
        """Hear one host and wait for the decision; wake() makes it look at is_asking() again."""
        if not 0 <= host_index < self._num_hosts:
            raise ValueError(f"host {host_index} is not one of the pod's {self._num_hosts} hosts")
        with self._changed:
            ballot = self._ballot(key)
            refusal = self._stop_reason(key)
            if refusal is None and not holds_all:
                refusal = f"host {host_index} lacks contributions"
            if refusal is None:
                ballot.agreed_hosts.add(host_index)
                if ballot.decision is None and len(ballot.agreed_hosts) == self._num_hosts:
                    self._decide(key, ballot, True)
            while ballot.decision is None and refusal is None:
                self._changed.wait()
                refusal = self._stop_reason(key)
                if refusal is None and not is_asking():
                    refusal = f"host {host_index} went away"
            if ballot.decision is not None:
                return ballot.decision
            decision = self._decide(key, ballot, False)
        if self._on_refused is not None:
            self._on_refused(key, f"step {key.step} is not applied: {refusal}")
        return decision

    def request_leave(self, job: str, generation: int) -> None:
        with self._changed:
            self._generation(job, generation).leave = True

    def forget(self, job: str, generation: int) -> None:
        with self._changed:
            self._over[job] = max(self._over.get(job, -1), generation)
            for at in [a for a in self._generations if a[0] == job and a[1] <= generation]:
                del self._generations[at]
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _generation(self, job: str, generation: int) -> _Generation:
        if generation <= self._over.get(job, -1):
            return _Generation()
        return self._generations.setdefault((job, generation), _Generation())

    def _ballot(self, key: StepKey) -> _Ballot:
        return self._generation(key.job, key.generation).ballots.setdefault(key.step, _Ballot())

    def _stop_reason(self, key: StepKey) -> str | None:
        if self._is_closed:
            return "the exchange is closed"
        if key.generation <= self._over.get(key.job, -1):
            return f"generation {key.generation} of job {key.job} is over at the lead"
        return None

    def _decide(self, key: StepKey, ballot: _Ballot, apply: bool) -> Agreement:
        generation = self._generation(key.job, key.generation)
        decision = ballot.decision = Agreement(apply, generation.leave)
        # Hosts are in lockstep: nobody asks about a step older than the one before this.
        for step in [step for step in generation.ballots if step < key.step - 1]:
            del generation.ballots[step]
        self._changed.notify_all()
        return decision


class RemoteAgreement:
    """The side of the hosts that are not the lead: asks it, one call per step."""

    def __init__(self, lead_address: str, host_index: int, join_token: str = "") -> None:
        self._metadata = ((TOKEN_KEY, join_token),)
        self._lead_address = lead_address
        self._host_index = host_index
        self._lock = threading.Lock()
        self._calls: set[Any] = set()
        self._channel = grpc.insecure_channel(lead_address, CLIENT_OPTIONS)
        self._stub = link_pb2_grpc.LinkServiceStub(self._channel)

    def agree(self, key: StepKey, holds_all: bool) -> Agreement:
        with self._lock:
            call = self._ask(key, holds_all)
            self._calls.add(call)
        try:
            answer = call.result()
        except grpc.FutureCancelledError:
            raise ExchangeAborted("the exchange is closed") from None
        except grpc.RpcError as error:
            detail = f"{call.code().name}: {call.details()}"
            raise LeadUnreachable(self._lead_address, detail) from error
        finally:
            with self._lock:
                self._calls.remove(call)
        return Agreement(answer.apply, answer.leave)

    def request_leave(self, job: str, generation: int) -> None:
        """The lead was asked as well, and what it says counts."""

    def forget(self, job: str, generation: int) -> None:
        """Only the lead remembers anything."""

    def close(self) -> None:
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel()
        self._channel.close()

    def _ask(self, key: StepKey, holds_all: bool) -> Any:
        # No deadline: the slowest host of the pod may wait for a slow link. The lead's death ends
        # the call, at once or through keepalive.
        return self._stub.AgreeStep.future(
            link_pb2.AgreeStepRequest(
                job=key.job,
                generation=key.generation,
                step=key.step,
                host_index=self._host_index,
                holds_all=holds_all,
            ),
            metadata=self._metadata,
        )
