"""What pods and hosts are, and which pods can take a job now.

A pod is the unit of failure and of launch: it is usable when all of its hosts are attached and have
told what accelerators they hold, and it is lost as a whole. Hosts are named by pod, index and
incarnation; a new process is a new incarnation, so an old one can change nothing.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from controller.core.link import LinkConditions


class PodState(enum.StrEnum):
    """What a pod is good for."""

    FORMING = "FORMING"
    """Hosts are missing or have not initialised their accelerators."""
    READY = "READY"
    """Free to take a job."""
    BUSY = "BUSY"
    """Works for a job, or is letting go of one."""
    DRAINED = "DRAINED"
    """Whole and free, and given no job: a person or its machine wants it so."""
    QUARANTINED = "QUARANTINED"
    """Whole and free, and given no job: it has computed other bits than it should."""
    LOST = "LOST"
    """Forming for so long that nobody counts on it; used as usual once all its hosts are there."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class HostRef:
    """One host process."""

    pod: str
    index: int
    incarnation: str

    def __str__(self) -> str:
        return f"host {self.index} of {self.pod}"


@dataclasses.dataclass(frozen=True, slots=True)
class Inventory:
    """A host's accelerators."""

    platform: str
    device_kind: str
    num_devices: int
    device_memory_bytes: int | None
    peak_flops_per_second: Mapping[str, float]
    """Of all devices of the host together, by compute dtype; empty when unknown."""
    peak_source: str
    """table, calibrated, emulated or unknown."""
    versions: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Traffic:
    """Of a host, or of a pod, to one peer pod; sums since its hosts started."""

    sent_bytes: int
    sending_seconds: float
    """In which any of it was under way."""
    retries: int
    """Frames sent again."""
    rate_bytes_per_second: float | None = None
    """Lately, while sending."""
    rtt_seconds: float | None = None
    """Of a small message there and back, lately."""

    def beside(self, other: Traffic) -> Traffic:
        """Of two hosts of a pod, which send at the same time: rates add up, and a step waits for
        the one that is farther away."""
        rates = [r for r in (self.rate_bytes_per_second, other.rate_bytes_per_second) if r]
        ways = [rtt for rtt in (self.rtt_seconds, other.rtt_seconds) if rtt is not None]
        return Traffic(
            self.sent_bytes + other.sent_bytes,
            self.sending_seconds + other.sending_seconds,
            self.retries + other.retries,
            sum(rates) if rates else None,
            max(ways, default=None),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """Where a host stands still with the state of a job."""

    step: int
    """Last step applied."""
    state_sha256: str
    """Of what all pods hold alike after it, hex; empty when the program has no digest."""


@dataclasses.dataclass(frozen=True, slots=True)
class Activity:
    """What a host does for a job."""

    assignment: Assignment
    phase: str
    """fetch, data, compile, heal, compute, exchange, evaluate, save or rest."""
    step: int
    """Under way, or last one applied where none is; 0 before the first."""
    since: float


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """One attached host."""

    ref: HostRef
    link_address: str
    coordinator_address: str
    pid: int
    last_heard: float
    inventory: Inventory | None = None
    holds: Assignment | None = None
    """The job generation it was told to prepare and has not released."""
    standing: Standing | None = None
    """Where it stands still with the job that it holds; None while it runs or prepares."""
    dataset_digest: str | None = None
    """Of the tokens it will train on, once it has compiled and initialised what it holds."""
    warming: str | None = None
    """The bundle whose program it was last told to compile ahead of need."""
    warm: str | None = None
    """The one whose program it has compiled so."""
    traffic: Mapping[str, Traffic] = dataclasses.field(default_factory=dict)
    link: LinkConditions | None = None
    """Of its emulated link, those in force; None when its link is not emulated."""
    assembled_with: str = ""
    """Incarnation of the lead with which it assembled its pod; empty before."""
    granted: int = 0
    """Last step of what it holds that an earlier controller granted it."""
    activity: Activity | None = None
    """As of its last heartbeat; None while it has no job."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Assignment:
    """A generation of a job."""

    job: str
    generation: int


@dataclasses.dataclass(frozen=True, slots=True)
class Withheld:
    """Why a pod is given no job."""

    code: str
    """Drained, Quarantined, or Leaving, which ends with its processes."""
    message: str


_WITHHELD_STATES = {
    "Drained": PodState.DRAINED,
    "Leaving": PodState.DRAINED,
    "Quarantined": PodState.QUARANTINED,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """Hosts that share a fast interconnect."""

    name: str
    num_hosts: int
    hosts: Mapping[int, Host] = dataclasses.field(default_factory=dict)
    assignment: Assignment | None = None
    releasing_since: float | None = None
    """Since when the pod is letting go of its assignment; None while it works or is free."""
    stirred_at: float = 0.0
    """When a host last came, took stock or went."""
    is_given_up: bool = False
    """Whether hosts were missing and nothing stirred for too long; a host that comes undoes it."""
    withheld: Withheld | None = None

    @property
    def state(self) -> PodState:
        if self.assignment is not None:
            return PodState.BUSY
        complete = len(self.hosts) == self.num_hosts
        if complete and all(host.inventory for host in self.hosts.values()):
            return _WITHHELD_STATES[self.withheld.code] if self.withheld else PodState.READY
        return PodState.LOST if self.is_given_up else PodState.FORMING

    @property
    def is_leaving(self) -> bool:
        """Whether its machine wants it gone, and its processes end for that."""
        return self.withheld is not None and self.withheld.code == "Leaving"

    @property
    def inventories(self) -> list[Inventory]:
        return [host.inventory for host in self.hosts.values() if host.inventory]

    @property
    def num_devices(self) -> int:
        return sum(inventory.num_devices for inventory in self.inventories)

    @property
    def traffic(self) -> dict[str, Traffic]:
        """By peer pod, of all hosts."""
        total: dict[str, Traffic] = {}
        for host in self.hosts.values():
            for peer, traffic in host.traffic.items():
                total[peer] = total[peer].beside(traffic) if peer in total else traffic
        return total

    def is_warm(self, bundle_digest: str) -> bool:
        """Whether all of its hosts have compiled this program."""
        return all(host.warm == bundle_digest for host in self.hosts.values())

    @property
    def standing(self) -> Standing | None:
        """Where the whole pod stands still with its job; None when its hosts do not agree."""
        told = {host.standing for host in self.hosts.values()}
        return told.pop() if len(told) == 1 and len(self.hosts) == self.num_hosts else None

    def peak_flops_per_second(self, dtype: str) -> float | None:
        """Peak of the whole pod, None when any host's is unknown."""
        peaks = [inventory.peak_flops_per_second.get(dtype) for inventory in self.inventories]
        known = [peak for peak in peaks if peak]
        return sum(known) if known and len(known) == len(peaks) else None

    def with_host(self, host: Host) -> Pod:
        return dataclasses.replace(self, hosts={**self.hosts, host.ref.index: host})

    def without_host(self, index: int) -> Pod:
        return dataclasses.replace(
            self, hosts={i: host for i, host in self.hosts.items() if i != index}
        )
