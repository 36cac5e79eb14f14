"""The state of a job, from pods that hold it to pods that lack it, over the link.

Before the first step of a generation, every member sends to each that lacks the state: who holds it
a part of its own shards, host i to host i, the parts together the whole; who lacks it, nothing. The
exchange does the rest, as for gradients: chunks, checksums, sending again, an emulated link. What
is sent is known by the step after which the state was taken, which no gradient of the generation
is of.

A member that gets the state so has lost nothing by encoding yet: what the lost pod carried of that
is gone with it.
"""

from __future__ import annotations

import numpy as np

from protos import faults
from workers.exchange.agreement import PodAgreement
from workers.exchange.base import ExchangeAborted, ExchangeError, GradientExchange
from workers.member_state import Restored
from workers.orders import JobOrder, Resume
from workers.payload import Part, Payload
from workers.program import Program
from workers.run import Kept


class HealError(Exception):
    """The state to go on with is not here, or is another one."""


def heal(
    order: JobOrder,
    resume: Resume,
    program: Program,
    exchange: GradientExchange,
    agreement: PodAgreement,
    kept: Kept | None,
) -> Restored:
    """The state to go on with: what this host kept, after others have been sent their parts of it,
    or what they send. The generation must be joined.

    Raises HealError, ExchangeError, and whatever the devices raise.
    """
    faults.at("heal")
    payload = Payload(list(program.state_buffers.values()))
    holders = [m for m in range(len(order.members)) if m not in resume.lacking]
    parts = dict(zip(holders, payload.parts([1] * len(holders)), strict=True))
    me = order.member_index
    others = sorted(resume.lacking - {me})
    key = order.key(resume.step, 0)
    if me in resume.lacking:
        exchange.send(key, [], others)
        return _received(order, resume, program, payload, parts, exchange, agreement)
    if kept is None:
        raise HealError(
            f"this host was to go on with the state of step {resume.step} and does not hold it"
        )
    check(resume, kept.state_sha256)
    if others:
        views = payload.views([kept.state.shared[name] for name in program.state_buffers], 1)
        exchange.send(key, parts[me].of(views), others)
    return kept.state


def check(resume: Resume, state_sha256: bytes) -> None:
    """Raise HealError unless a state of this digest is the one to go on with."""
    if state_sha256 != resume.state_sha256:
        raise HealError(
            f"the state after step {resume.step} has digest {state_sha256.hex()[:12]} here, and "
            f"{resume.state_sha256.hex()[:12]} where it came from"
        )


def _received(
    order: JobOrder,
    resume: Resume,
    program: Program,
    payload: Payload,
    parts: dict[int, Part],
    exchange: GradientExchange,
    agreement: PodAgreement,
) -> Restored:
    key = order.key(resume.step, 0)
    peers = [m for m in range(len(order.members)) if m != order.member_index]
    incoming = {peer: parts[peer].num_bytes if peer in parts else 0 for peer in peers}
    try:
        received = exchange.receive(key, incoming)
    except ExchangeError:
        # No host of the pod may use what one of them lacks.
        agreement.agree(key, False)
        raise
    if not agreement.agree(key, True).apply:
        raise ExchangeAborted("another host of this pod did not get its part of the state")
    pieces = [np.frombuffer(received[peer], np.uint8) for peer in parts]
    whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    arrays = payload.arrays(whole.data)
    return Restored(dict(zip(program.state_buffers, arrays, strict=True)), {})
