"""Gradients that cross the link in fewer bits, and what that loses carried to the next step.

Every pod encodes its sum plus what it lost before; the total is the sum of what was decoded, made
by the same compiled program from the same bytes at every pod, so that all apply the same bits. Two
pods send each other everything. More than two share it out in rows, as workers.reduction.scattered
does, and the total of a row is encoded once more, by its owner, who carries that loss too.

Error feedback: Seide et al., 1-bit SGD (Interspeech 2014); on both ways as here: Tang et al.,
DoubleSqueeze (ICML 2019).

Letters of shapes are those of workers.reduction.lanes.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workers.exchange.base import StepKey
from workers.payload import Payload
from workers.reduction.base import ExchangeClock, Gang, Gradients, Sums, add_arrays, flat, grouped
from workers.reduction.lanes import Lane, Rule
from workers.reduction.residuals import OF_SUMS, OF_TOTALS, Pieces

Residuals = dict[str, jax.Array]
"""By the name of the segment, device and round: float32 vectors."""


class EncodedReduction:
    """One thread sends, one receives and decodes, and with more than two pods one adds up the rows
    that this pod owns; metrics are added by the caller."""

    def __init__(self, gang: Gang, rule: Rule, lost: Mapping[str, jax.Array]) -> None:
        """`lost` is what is restored of WholeGradients.member_arrays; without it, nothing is lost
        yet."""
        self.clock = ExchangeClock()
        self._gang, self._rule = gang, rule
        self._exact = [Payload(layout.exact_buffers) for layout in gang.segments]
        self._encoded = [Payload(layout.encoded_buffers) for layout in gang.segments]
        self._lanes = [
            [Lane(payload, device, gang, rule) for device in payload.devices]
            for payload in self._encoded
        ]
        self._shares_out = gang.num_members > 2
        self._residuals: Residuals = {}
        self._take(lost)
        self._lost: Residuals = {}
        """What encoding the step under way has lost; counts once the step is applied."""
        self._sender = concurrent.futures.ThreadPoolExecutor(1, "send-gradients")
        self._adder = concurrent.futures.ThreadPoolExecutor(1, "add-gradients")
        self._receiver = concurrent.futures.ThreadPoolExecutor(1, "receive-gradients")
        self._offered: dict[
            StepKey, tuple[list[jax.Array], concurrent.futures.Future[_Arrived]]
        ] = {}

    def offer(self, key: StepKey, sums: Sums) -> None:
        layout = self._gang.segments[key.segment]
        arrays = flat(sums)
        gradients = arrays[: len(layout.encoded_buffers)]
        exact = arrays[len(layout.encoded_buffers) :]
        # Dispatched here, behind what computes the gradients and before what computes the next.
        encoded = [
            self._encode(key, number, lane, gradients)
            for number, lane in enumerate(self._lanes[key.segment])
        ]
        sent = self._sender.submit(self._send, key, encoded, exact)
        own = self._adder.submit(self._own_rows, key, sent) if self._shares_out else sent
        self._offered[key] = exact, self._receiver.submit(self._arrive, key, own)

    def total(self, key: StepKey) -> Gradients:
        exact, offered = self._offered.pop(key)
        arrived = offered.result()
        total = None
        for member in range(self._gang.num_members):
            part = arrived.exact.get(member, exact)
            total = part if total is None else add_arrays(total, part)
        arrays = [*arrived.gradients, *(total or ())]
        return grouped(arrays, self._gang.segments[key.segment].group_sizes)

    def applied(self) -> None:
        """What encoding lost of it is lost for good, or comes next."""
        self._residuals |= self._lost
        self._lost = {}

    def member_state(self) -> dict[str, jax.Array]:
        if not self._rule.error_feedback:
            return {}
        found = self._gang.whole.join(OF_SUMS, self._pieces(0))
        if self._shares_out:
            found |= self._gang.whole.join(OF_TOTALS, self._pieces(1))
        return found

    def link_bytes(self, key: StepKey) -> int:
        rows = sum(lane.row_bytes for lane in self._lanes[key.segment])
        # A row to each peer, and with more than two pods this pod's own to each.
        encoded = rows * (2 if self._shares_out else 1)
        return len(self._gang.peers) * (encoded + self._exact[key.segment].num_bytes)

    def residual_squares(self) -> list[jax.Array]:
        if not self._rule.error_feedback:
            return []
        on_device: dict[Any, list[jax.Array]] = {}
        for residual in self._residuals.values():
            on_device.setdefault(residual.device, []).append(residual)
        return [_sum_of_squares(residuals) for residuals in on_device.values()]

    def close(self) -> None:
        self._sender.shutdown()
        self._adder.shutdown()
        self._receiver.shutdown()

    def _pieces(self, turn: int) -> Pieces:
        """Residuals of a round as gradients of the segments."""
        return [
            payload.from_shards(
                {
                    lane.device: lane.shards_lost(
                        self._residuals[_name(segment, number, turn)], turn
                    )
                    for number, lane in enumerate(lanes)
                }
            )
            for segment, (lanes, payload) in enumerate(zip(self._lanes, self._encoded, strict=True))
        ]

    def _take(self, lost: Mapping[str, jax.Array]) -> None:
        """Begin with these residuals."""
        of_sums, of_totals = (self._gang.whole.split(which, lost) for which in (OF_SUMS, OF_TOTALS))
        for segment, lanes in enumerate(self._lanes):
            for number, lane in enumerate(lanes):
                found = (pieces[segment] if pieces else None for pieces in (of_sums, of_totals))
                for turn, residual in enumerate(lane.residuals(*found)):
                    if turn == 0 or self._shares_out:
                        self._residuals[_name(segment, number, turn)] = residual

    def _encode(
        self, key: StepKey, number: int, lane: Lane, gradients: list[jax.Array]
    ) -> jax.Array:
        name = _name(key.segment, number, 0)
        encoded, self._lost[name] = lane.coding.encode(
            lane.shards(gradients), self._residuals[name], self._random(key), lane.blocks
        )
        encoded.copy_to_host_async()
        return encoded

    def _send(self, key: StepKey, encoded: list[jax.Array], exact: list[jax.Array]) -> _Rows:
        """Returns what this pod itself goes on with: all of it, or the row it owns."""
        gang = self._gang
        rows = [np.asarray(array) for array in encoded]
        payload = self._exact[key.segment]
        beside = payload.views(jax.block_until_ready(exact), 1)
        self.clock.begin(key.step)
        mine = gang.member_index if self._shares_out else 0
        if self._shares_out:
            for peer in gang.peers:
                gang.exchange.send(key, [*(row[peer].data for row in rows), *beside], [peer])
        else:
            gang.exchange.send(key, [*(row[0].data for row in rows), *beside], gang.peers)
        self.clock.end(key.step)
        return _Rows([row[mine] for row in rows], {})

    def _receive(self, key: StepKey, own: _Rows) -> _Rows:
        """Every member's row for this pod, [P, bytes] of each lane."""
        gang, lanes = self._gang, self._lanes[key.segment]
        exact_bytes = self._exact[key.segment].num_bytes
        size = sum(lane.row_bytes for lane in lanes)
        received = gang.exchange.receive(key, dict.fromkeys(gang.peers, size + exact_bytes))
        self.clock.end(key.step)
        stacked = _stacked(gang, lanes, own.encoded, received)
        # Copies: a slice would keep all that was received, of which the rows have a copy already.
        return _Rows(stacked, {peer: bytes(data[size:]) for peer, data in received.items()})

    def _own_rows(self, key: StepKey, sent: concurrent.futures.Future[_Rows]) -> _Rows:
        """Adds up the rows that this pod owns and sends the totals on."""
        gang = self._gang
        rows = self._receive(key, sent.result())
        totals = []
        for number, (lane, encoded) in enumerate(
            zip(self._lanes[key.segment], rows.encoded, strict=True)
        ):
            name = _name(key.segment, number, 1)
            total, self._lost[name] = lane.coding.encode_total(
                jax.device_put(encoded, lane.device),
                self._residuals[name],
                self._random(key.onward),
                lane.blocks,
                lane.own_row,
            )
            totals.append(np.asarray(total)[0])
        gang.exchange.send(key.onward, [total.data for total in totals], gang.peers)
        return _Rows(totals, rows.exact)

    def _arrive(self, key: StepKey, own: concurrent.futures.Future[_Rows]) -> _Arrived:
        """Receives what goes with this pod's own rows, and decodes it."""
        rows = (self._all_rows if self._shares_out else self._receive)(key, own.result())
        shards = {
            lane.device: (
                lane.coding.decode_rows if self._shares_out else lane.coding.decode_total
            )(jax.device_put(encoded, lane.device))
            for lane, encoded in zip(self._lanes[key.segment], rows.encoded, strict=True)
        }
        payload = self._exact[key.segment]
        exact = {peer: payload.arrays(memoryview(data)) for peer, data in rows.exact.items()}
        return _Arrived(self._encoded[key.segment].from_shards(shards), exact)

    def _all_rows(self, key: StepKey, own: _Rows) -> _Rows:
        """The totals of all rows, [R, bytes] of each lane."""
        gang, lanes = self._gang, self._lanes[key.segment]
        size = sum(lane.row_bytes for lane in lanes)
        received = gang.exchange.receive(key.onward, dict.fromkeys(gang.peers, size))
        self.clock.end(key.step)
        return _Rows(_stacked(gang, lanes, own.encoded, received), own.exact)

    def _random(self, key: StepKey) -> np.ndarray:
        """What random rounding starts from: another for everything that is encoded, the same when a
        step is computed again, and at all hosts of the pod. A total is encoded by one member alone,
        not by the same one at every host."""
        place = 0 if key.round else 1 + self._gang.member_index
        return np.array([self._rule.seed, key.step, key.segment, place], np.uint32)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What is at hand of a segment: encoded bytes lane by lane, and exact bytes by peer."""

    encoded: list[np.ndarray]
    exact: Mapping[int, bytes]


@dataclasses.dataclass(frozen=True)
class _Arrived:
    """Totals of a segment's gradients, and the peers' metrics, on the devices."""

    gradients: list[jax.Array]
    exact: Mapping[int, list[jax.Array]]


@jax.jit
def _sum_of_squares(arrays: list[jax.Array]) -> jax.Array:
    return sum((jnp.vdot(array, array) for array in arrays), start=jnp.float32(0.0))


def _name(segment: int, lane: int, turn: int) -> str:
    return f"segment_{segment}/device_{lane}/round_{turn}"


def _stacked(
    gang: Gang,
    lanes: Sequence[Lane],
    own: Sequence[np.ndarray],
    received: Mapping[int, memoryview],
) -> list[np.ndarray]:
    """Each lane's bytes of all members in order, [P, bytes]."""
    stacked, at = [], 0
    for lane, mine in zip(lanes, own, strict=True):
        rows = np.empty((gang.num_members, lane.row_bytes), np.uint8)
        for member in range(gang.num_members):
            if member in received:
                rows[member] = np.frombuffer(received[member], np.uint8, lane.row_bytes, at)
            else:
                rows[member] = mine
        stacked.append(rows)
        at += lane.row_bytes
    return stacked
