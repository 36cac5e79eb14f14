"""The seam between a pod and the other pods of its gang.

Two methods move gradients: send() gives peers a contribution and returns at once, receive() waits
for theirs; so a segment travels while the next is computed. Summing is the caller's
(workers.reduction). Reasons to stop come as exceptions:

    ExchangeError
      ExchangeAborted        this side was told to stop: abort, leave, close, a newer generation
      PeerUnreachable        a peer pod whose contribution is missing cannot be reached any more
      LeadUnreachable        the lead of this pod cannot be reached to agree on a step
      ContributionMismatch   a peer sent another number of bytes than the program says
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StepKey:
    """What a contribution belongs to."""

    job: str
    generation: int
    # Or the number of the exchange, where pods do not exchange after every step.
    step: int
    segment: int = 0
    # What is sent on after a first round was received: 0 for what a pod computed itself.
    round: int = 0

    @property
    def part(self) -> tuple[int, int]:
        """Which of the contributions of its step."""
        return self.segment, self.round

    @property
    def onward(self) -> "StepKey":
        """The same segment in the next round."""
        return replace(self, round=self.round + 1)


@dataclass(frozen=True)
class Membership:
    """One generation of a gang as one host sees it; the host itself is in neither mapping."""

    job: str
    generation: int
    member_index: int
    # member index -> host:port of the host with this host's index in that pod
    peers: Mapping[int, str]
    # member index -> name of the pod
    peer_names: Mapping[int, str]
    # No peer's contribution to one step, all segments together, is larger. It bounds the memory
    # that early contributions take, whose size the program has not told yet.
    max_step_bytes: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was sent to one pod since the exchange was opened."""

    sent_bytes: int = 0
    sending_seconds: float = 0.0
    """In which any of it was under way."""
    retries: int = 0
    """Frames sent again."""
    rate_bytes_per_second: float | None = None
    """Lately, while sending; None before anything was sent."""
    rtt_seconds: float | None = None
    """Of a small message there and back, lately; None where it is not known."""


class ExchangeError(Exception):
    """Base of everything an exchange raises about the world, as opposed to about its caller."""


class ExchangeAborted(ExchangeError):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PeerUnreachable(ExchangeError):
    def __init__(self, member_index: int, pod: str, detail: str) -> None:
        super().__init__(f"pod {pod} (member {member_index}) cannot be reached: {detail}")
        self.member_index = member_index
        self.pod = pod
        self.detail = detail


class LeadUnreachable(ExchangeError):
    def __init__(self, address: str, detail: str) -> None:
        super().__init__(f"the lead of this pod at {address} cannot be reached: {detail}")
        self.address = address
        self.detail = detail


class ContributionMismatch(ExchangeError):
    def __init__(
        self,
        key: StepKey,
        member_index: int,
        expected: int,
        announced: int,
        *,
        is_bound: bool = False,
    ) -> None:
        """Sizes are in bytes; expected is what is allowed at most when is_bound."""
        says = f"at most {expected}" if is_bound else f"{expected}"
        super().__init__(
            f"step {key.step} segment {key.segment} of job {key.job}: member {member_index} sends"
            f" {announced} bytes, the program says {says}; do both pods run the same bundle?"
        )
        self.member_index = member_index


class GradientExchange(Protocol):
    """Every method but receive() returns at once; all may be called from any thread."""

    def join(self, membership: Membership) -> None:
        """Enter a generation and drop earlier ones of that job. Join before compiling: from then on
        early contributions of faster peers are taken in instead of being held back at the peer."""
        ...

    def send(self, key: StepKey, outgoing: Sequence[memoryview], to: Collection[int]) -> None:
        """Send the concatenation of outgoing to those peers, once per key and peer.

        The views must be C-contiguous; they are copied during the call. Raises ExchangeAborted, and
        ValueError when `to` names a member that is no peer.
        """
        ...

    def receive(self, key: StepKey, incoming_bytes: Mapping[int, int]) -> Mapping[int, memoryview]:
        """The contribution of every peer to a key, once per key; no earlier step is received after.

        Blocks, for as long as a peer takes to start. The returned memory is writable and belongs to
        the caller. Raises ExchangeAborted, PeerUnreachable or ContributionMismatch; then nothing
        was returned, and peers may or may not hold what was sent to them.
        """
        ...

    def abort(self, job: str, generation: int, reason: str) -> None:
        """Make the current and every later send and receive of the generation raise
        ExchangeAborted."""
        ...

    def leave(self, job: str, generation: int) -> None:
        """Free every buffer of the generation; what peers still miss is delivered first, behind the
        caller's back, unless the generation was aborted."""
        ...

    def traffic(self) -> Mapping[str, Traffic]:
        """Cumulative, by pod name."""
        ...

    def close(self) -> None:
        """Deliver what was left behind by leave(), then stop; waiting receives are aborted."""
        ...
