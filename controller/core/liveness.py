"""Is a host alive, does a pod let go or come back in time: observations and now in, a verdict with
its reason out. Policy and thresholds live here and nowhere else."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping

from controller.core.cluster import Host, Pod, PodState
from controller.core.step import Progress


@dataclasses.dataclass(frozen=True, slots=True)
class LivenessPolicy:
    """Durations in seconds."""

    heartbeat_interval: float = 1.0
    """Fifteen of them fit the grace, so that one late message is no verdict."""
    silence_grace: float = 15.0
    """Fifteen heartbeats. A crash does not wait for this, its connection closes at once; so it
    only has to outlast the pauses of a host that is alive, such as a compiler holding the
    interpreter."""
    suspicion_grace: float = 2.0
    """A peer that died closes its control stream within this; a job that fails can then name it."""
    release_grace: float = 3.0
    """A pod that has not let go by then is stuck in a step or in the compiler and is restarted,
    which keeps cancel within its promised 5 s."""
    return_grace: float = 120.0
    """A launcher waits 10 s at most before it starts a pod again, and a host with jax dials in 5 to
    10 s later, measured on two cores; a machine that boots or pulls an image takes a minute or two.
    A pod given up too early costs a waiting job its turn until the pod is back; one given up too
    late holds up those behind."""
    takeover_grace: float = 20.0
    """Hosts dial a restarted controller again within 3 s (the longest back-off, and jitter); one
    that computes on all cores of its machine may be late. A job on pods that do not come back waits
    so long."""
    step_multiple: float = 5.0
    step_deviations: float = 20.0
    step_floor: float = 20.0
    """A step may take five times the median of the job's recent ones, or the median and twenty of
    their median absolute deviations, and 20 s in any case: what is longer than that is no jitter.
    Steps of a job whose machine compiles something else at the same time take twice as long, and a
    host that swaps stops for seconds."""
    first_step_limit: float = 900.0
    """Of the first steps of a generation: accelerators tune kernels and fill caches in them."""
    link_limit: float = 120.0
    """How long all pods of a gang may wait for the link together, when that is longer than a step
    may take. A link that is down for a minute comes back more often than not, and starting pods
    again does not mend it."""
    phase_limits: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {
            "fetch": 900.0,
            "data": 4 * 3600.0,
            "compile": 3600.0,
            "heal": 900.0,
            "evaluate": 3600.0,
            "save": 600.0,
        }
    )
    """Of what a job does rarely. Fetching gives up after 600 s by itself; the largest programs
    compile for half an hour; a source of a hundred gigabytes is tokenised at 10 MB/s."""
    stacks_grace: float = 3.0
    """Hosts tell their stacks within milliseconds of being asked; one that cannot even do that is
    given up without."""
    absence: float = 5.0
    """A controller that saw no tick for this long (they come every 0.25 s) was stopped itself or
    its machine slept; what it did not hear meanwhile says nothing about hosts."""


class Verdict(typing.NamedTuple):
    holds: bool
    reason: str


def is_silent(host: Host, now: float, policy: LivenessPolicy) -> Verdict:
    """Whether a host must be taken for lost."""
    silence = now - host.last_heard
    return Verdict(
        silence > policy.silence_grace,
        f"{host.ref} was silent for {silence:.0f} s, {policy.silence_grace:.0f} s are allowed",
    )


def was_absent(ticked_at: float | None, now: float, policy: LivenessPolicy) -> Verdict:
    """Whether it was the controller that was away."""
    away = 0.0 if ticked_at is None else now - ticked_at
    return Verdict(away > policy.absence, f"the controller itself was away for {away:.0f} s")


def is_stuck(pod: Pod, now: float, policy: LivenessPolicy) -> Verdict:
    """Whether a pod that was told to stop holds on for too long."""
    waited = 0.0 if pod.releasing_since is None else now - pod.releasing_since
    return Verdict(
        waited > policy.release_grace,
        f"{pod.name} did not let go of its job within {policy.release_grace:.0f} s",
    )


def gathering_grace(progress: Progress | None, policy: LivenessPolicy) -> float:
    """How long a pod may take to stand still: a step that is under way is finished first."""
    recent = progress.recent if progress else ()
    return policy.release_grace + 3 * max((record.seconds for record in recent), default=0.0)


def is_not_coming(pod: Pod, now: float, policy: LivenessPolicy) -> Verdict:
    """Whether a pod that forms has stood still for so long that no job should wait for it."""
    waited = now - pod.stirred_at
    return Verdict(
        pod.state is PodState.FORMING and waited > policy.return_grace,
        f"{pod.name} has not formed and no host came for {waited:.0f} s, "
        f"{policy.return_grace:.0f} s are allowed; no job waits for it until one does",
    )
