from __future__ import annotations

import dataclasses

import pytest

from controller.core import events, exposure, step, view
from controller.core.choosing import Candidate, ChoicePolicy, Departure
from controller.core.cluster import Traffic
from controller.core.exchange import ExchangeRule
from controller.core.step import Progress
from tests.controller.core.world import World, record, ref, two_pods


def _progress(steps: int, exposed: float, told: bool = False) -> Progress:
    records = [record(number, exposed_seconds=exposed) for number in range(1, steps + 1)]
    progress, _ = step.report(step.begin(999, ["pod-0"]), "pod-0", records)
    return dataclasses.replace(progress, waits_for_link=told)


@pytest.mark.parametrize(
    ("steps", "exposed", "told", "waits"),
    [
        (3, 0.4, False, False),
        (4, 0.4, False, True),
        (4, 0.09, False, False),
        (4, 0.09, True, True),
        (4, 0.025, True, False),
        (0, 0.0, True, True),
    ],
)
def test_people_are_told_above_a_fifth_and_again_below_less(
    steps: int, exposed: float, told: bool, waits: bool
) -> None:
    assert exposure.waits(_progress(steps, exposed, told)) is waits


def _streaming(exposed: float, exchanges: int) -> Progress:
    """Waits at the last of every six steps."""
    records = [
        record(
            number,
            exposed_seconds=0.0 if number % 6 else exposed,
            exchange_seconds=0.0 if number % 6 else 2.0,
        )
        for number in range(1, 6 * exchanges + 4)
    ]
    progress = step.begin(999, ["pod-0"])
    # However they are reported.
    for at in range(0, len(records), 4):
        progress, _ = step.report(progress, "pod-0", records[at : at + 4])
    return progress


@pytest.mark.parametrize(
    ("exposed", "exchanges", "share"), [(0.9, 5, 0.3), (0.3, 40, 0.1), (0.9, 3, None)]
)
def test_a_wait_every_so_many_steps_counts_for_all_of_them(
    exposed: float, exchanges: int, share: float | None
) -> None:
    found = exposure.share(_streaming(exposed, exchanges))
    assert found == (pytest.approx(share) if share else None)


def _slow_job(**fields: object) -> World:
    world = two_pods()
    world.start(steps=100, **fields)
    for src, dst, rate, rtt in (("pod-0", "pod-1", 1.2e6, 0.02), ("pod-1", "pod-0", 9e9, None)):
        traffic = Traffic(10, 1.0, 0, rate, rtt)
        elsewhere = Traffic(10, 1.0, 0, 1.0, 0.5)
        world.happens(events.HostHeard(ref(src), {dst: traffic, "pod-7": elsewhere}))
    for host in world.hosts():
        world.apply(host, range(1, 9), exposed_seconds=0.205, link_bytes=9_200_000)
    return world


def _warnings(world: World) -> list[view.Document]:
    return view.job_document(world.job(), world.state, world.now)["warnings"]


def test_a_job_that_waits_says_for_which_link_and_what_to_do() -> None:
    world = _slow_job()
    (warned,) = _warnings(world)
    assert warned["code"] == "LinkBound"
    assert warned["message"] == (
        "41% of a step waits for the link from pod-0 to pod-1: it carries 1.2 MB/s, a step sends"
        " 9.2 MB; there and back takes 20.0 ms"
    )
    assert "bfloat16 or int8" in warned["hint"] and "a faster link" in warned["hint"]


def test_the_job_says_so_once_and_once_when_it_is_over() -> None:
    world = _slow_job()
    assert world.noted() == ["link.slow"]
    for host in world.hosts():
        world.apply(host, range(9, 20), exposed_seconds=0.205)
    assert world.noted() == []
    for host in world.hosts():
        world.apply(host, range(20, 80), exposed_seconds=0.01)
    assert world.noted() == ["link.keeps_up"]
    assert _warnings(world) == []


def test_a_job_that_has_ended_waits_for_nothing() -> None:
    world = _slow_job()
    world.happens(events.CancelRequested("job-1", "ada"))
    assert _warnings(world) == []


def test_a_link_of_unknown_rate_is_not_named() -> None:
    progress = _progress(8, 0.205)
    assert exposure.sentence(progress, ("pod-0", "pod-1"), {}) == (
        "41% of a step waits for the link; the lead hosts send 100 B a step"
    )


def test_a_link_of_unknown_round_trip_is_named_without() -> None:
    world = _slow_job()
    traffic = {"pod-1": Traffic(10, 1.0, 0, 12_000.0)}
    world.happens(events.HostHeard(ref("pod-0"), traffic))
    assert _warnings(world)[0]["message"].endswith("it carries 12 kB/s, a step sends 9.2 MB")


def test_a_long_round_trip_is_in_seconds() -> None:
    world = _slow_job()
    traffic = {"pod-1": Traffic(10, 1.0, 0, 12.0, 2.5)}
    world.happens(events.HostHeard(ref("pod-0"), traffic))
    assert _warnings(world)[0]["message"].endswith("there and back takes 2.5 s")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (ExchangeRule(overlap=False), "exchange.overlap: true"),
        (ExchangeRule(dtype="bfloat16"), "exchange.dtype: int8, half"),
        (ExchangeRule(dtype="int8"), "exchange.mode: streaming_diloco"),
        (ExchangeRule(mode="diloco", dtype="int4"), "exchange.mode: streaming_diloco"),
        (ExchangeRule(mode="streaming_diloco"), "a longer exchange.outer.delay"),
    ],
)
def test_what_to_do_follows_from_what_is_done_already(rule: ExchangeRule, words: str) -> None:
    (warned,) = _warnings(_slow_job(exchange=rule))
    assert warned["hint"].startswith(words)


@pytest.mark.parametrize(
    ("dtypes", "words"),
    [
        (("float32", "bfloat16"), "int8 in exchange.allow"),
        (("float32", "int8"), "exchange.mode: streaming_diloco"),
    ],
)
def test_what_may_be_chosen_already_is_no_advice(dtypes: tuple[str, ...], words: str) -> None:
    candidates = tuple(Candidate(ExchangeRule(dtype=d), (Departure(1.0, 1.0),)) for d in dtypes)
    (warned,) = _warnings(_slow_job(choice=ChoicePolicy(candidates)))
    assert warned["hint"].startswith(words)


def test_frames_sent_again_count_for_the_job_that_the_host_holds() -> None:
    world = two_pods()
    world.happens(events.HostHeard(ref("pod-0"), {"pod-1": Traffic(1, 1.0, 5)}))
    world.start()
    for retries in (5, 7, 7):
        world.happens(events.HostHeard(ref("pod-0"), {"pod-1": Traffic(1, 1.0, retries)}))
    world.happens(events.HostHeard(ref("pod-1"), {"pod-0": Traffic(1, 1.0, 1)}))
    document = view.job_document(world.job(), world.state, world.now)
    assert document["link_retries"] == 3
