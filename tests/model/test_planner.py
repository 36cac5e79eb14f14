"""The planner against what PaLM published (sections 4 and 4.1, appendix B, table 22)."""

import dataclasses
import itertools

import pytest

from model import flops, overlap, planner
from model.config import PRESETS, MeshConfig, SlotConfig
from model.outer_config import OuterConfig
from model.pipeline import Pipeline, microbatches_for
from model.planner import Assumptions, Job

V4_PEAK = 275e12


def palm_540b(link_dtype: str = "bfloat16") -> Job:
    """Two pods of 3,072 chips at batch 2048: half of the batch each, one slot."""
    return Job(
        model=PRESETS["palm-540b"],
        slot=SlotConfig(microbatch=1024, sequence_length=2048),
        mesh=MeshConfig(data=256, model=12),
        slots=[(0, 1), (1, 2)],
        hosts_per_pod=768,
        link_dtype=link_dtype,
    )


def test_the_published_rate_is_the_published_utilisation():
    given = Assumptions(peak_flops_per_second=V4_PEAK, tokens_per_second=238.3e3)
    speed = planner.plan(palm_540b(), given).speed
    assert speed.mfu == pytest.approx(0.462, abs=5e-4)
    assert speed.hfu == pytest.approx(0.578, abs=5e-4)
    assert speed.step_seconds == pytest.approx(17.6, abs=0.05)
    assert speed.exposed_seconds is None
    assert speed.weak_scaling is None


def test_the_link_carries_the_published_gigabytes():
    sent = planner.link_bytes_per_host(palm_540b())
    assert sent / (1 << 30) == pytest.approx(1.3, abs=0.05)
    assert planner.link_bytes_per_host(palm_540b("float32")) == pytest.approx(2 * sent, rel=1e-6)


def test_without_overlap_two_pods_are_worth_the_published_1_95():
    # 3.2 GB/s a host: half of the 81 Tbit/s burst over 1,536 hosts.
    given = Assumptions(
        peak_flops_per_second=V4_PEAK, link_bytes_per_second=3.2e9, tokens_per_second=238.3e3
    )
    assert planner.plan(palm_540b(), given).speed.weak_scaling == pytest.approx(1.95, abs=5e-3)


def test_the_fastest_step_follows_from_utilisation_and_link():
    given = Assumptions(peak_flops_per_second=V4_PEAK, link_bytes_per_second=3.2e9, mfu=0.474)
    speed = planner.plan(palm_540b(), given).speed
    assert speed.tokens_per_second == pytest.approx(238.3e3, rel=5e-3)
    assert speed.mfu is not None
    assert speed.mfu < 0.474


def test_540b_fits_a_v4_chip():
    need = planner.plan(palm_540b(), Assumptions()).bytes_per_device
    assert need.total < 0.8 * 32 * (1 << 30)


def test_one_pod_sends_nothing_and_exposes_nothing():
    job = Job(
        model=PRESETS["palm-tiny"],
        slot=SlotConfig(microbatch=4, sequence_length=256),
        mesh=MeshConfig(),
        slots=[(0, 4)],
    )
    plan = planner.plan(job, Assumptions(peak_flops_per_second=1e11, mfu=0.5))
    assert plan.link_bytes_per_host_per_step == 0
    assert plan.speed.exposed_seconds == 0.0
    assert plan.speed.mfu == pytest.approx(0.5)
    assert plan.speed.weak_scaling == 1.0


def encoded(pods: int, link_dtype: str, error_feedback: bool) -> planner.Plan:
    job = Job(
        model=PRESETS["palm-tiny"],
        slot=SlotConfig(microbatch=4, sequence_length=256),
        mesh=MeshConfig(),
        slots=[(index, index + 1) for index in range(pods)],
        link_dtype=link_dtype,
        error_feedback=error_feedback,
    )
    return planner.plan(job, Assumptions())


@pytest.mark.parametrize(
    ("pods", "on_a_device", "written"), [(1, 0, 0), (2, 2, 2), (3, 2 * (1 + 1 / 3), 6)]
)
@pytest.mark.parametrize("link_dtype", ["int8", "bfloat16"])
def test_what_encoding_loses_is_on_devices_and_in_checkpoints(
    pods, on_a_device, written, link_dtype
):
    lossless = encoded(pods, "float32", True)
    assert encoded(pods, link_dtype, False).checkpoint_bytes == lossless.checkpoint_bytes
    plan = encoded(pods, link_dtype, True)
    # float32, as the parameters are.
    gradient = lossless.bytes_per_device.params
    assert plan.bytes_per_device.residuals == pytest.approx(on_a_device * gradient)
    more = plan.bytes_per_device.total - lossless.bytes_per_device.total
    assert more == plan.bytes_per_device.residuals
    assert plan.checkpoint_bytes - lossless.checkpoint_bytes == written * gradient


@pytest.mark.parametrize("given", [
    Assumptions(),
    Assumptions(mfu=0.5, link_bytes_per_second=1e9),
    Assumptions(peak_flops_per_second=V4_PEAK, mfu=0.5),
])  # fmt: skip
def test_what_cannot_be_known_is_none(given):
    speed = planner.plan(palm_540b(), given).speed
    assert (speed.step_seconds, speed.tokens_per_second, speed.mfu) == (None, None, None)


def test_a_pipeline_waits_and_holds_as_gpipe_says():
    assert Pipeline(1, 1).bubble == 0.0
    assert Pipeline(4, 4).bubble == pytest.approx(3 / 7)
    assert Pipeline(16, 64).activations_held == 16
    for stages, bubble in itertools.product((2, 4, 16, 64), (0.01, 0.05, 0.25)):
        fewest = microbatches_for(stages, bubble)
        assert Pipeline(stages, fewest).bubble <= bubble + 1e-12
        assert fewest == 1 or Pipeline(stages, fewest - 1).bubble > bubble
    with pytest.raises(ValueError, match="between 0 and 1"):
        microbatches_for(4, 1.0)


def _with_outer(job: Job, **fields) -> Job:
    return dataclasses.replace(job, outer=OuterConfig(**fields))


def test_outer_steps_send_everything_once_in_so_many_steps():
    every_step = planner.link_bytes_per_host(palm_540b("int8"))
    diloco = planner.link_bytes_per_host(_with_outer(palm_540b("int8"), every=100))
    assert every_step / diloco == pytest.approx(100, rel=1e-3)
    int4 = planner.link_bytes_per_host(_with_outer(palm_540b("int4"), every=100))
    float32 = planner.link_bytes_per_host(palm_540b("float32"))
    assert float32 / int4 == pytest.approx(776, rel=1e-2)


def test_a_checkpoint_has_the_anchor_once_and_of_every_pod_what_it_trained():
    job = palm_540b("float32")
    every_step = planner.plan(job, Assumptions()).checkpoint_bytes
    numbers = flops.parameter_count(job.model) + flops.norm_scale_count(job.model)
    outer = planner.plan(_with_outer(job, every=100), Assumptions()).checkpoint_bytes
    assert outer == 8 * numbers + 2 * every_step


def test_a_delay_hides_what_its_steps_take_and_needs_their_time():
    given = Assumptions(peak_flops_per_second=V4_PEAK, link_bytes_per_second=1e8, mfu=0.474)
    waiting = _with_outer(palm_540b(), every=100, fragments=4)
    streaming = _with_outer(palm_540b(), every=100, fragments=4, delay=1)
    exposed = [planner.plan(job, given).speed.exposed_seconds for job in (waiting, streaming)]
    # A fragment takes 3.5 s, and a step 17: of 14 s in 100 steps nothing is left.
    assert exposed == [pytest.approx(0.14, rel=0.03), 0.0]
    slower = dataclasses.replace(given, link_bytes_per_second=1e7)
    compute = planner.plan(streaming, given).speed.step_seconds
    # 35 s a fragment, of which a step hides its length, every 25 steps.
    transfer = planner.link_bytes_per_host(streaming) / 1e7
    left = planner.plan(streaming, slower).speed
    assert left.exposed_seconds == pytest.approx(transfer - compute / 25)
    assert left.exposed_seconds == pytest.approx(0.7, rel=0.1)
    assert left.step_seconds == pytest.approx(compute + left.exposed_seconds)
    unknown = Assumptions(link_bytes_per_second=1e8)
    assert planner.plan(streaming, unknown).speed.exposed_seconds is None
    assert planner.plan(waiting, unknown).speed.exposed_seconds == exposed[0]


def test_anchor_momentum_and_a_fragment_take_memory():
    plain = planner.plan(palm_540b(), Assumptions()).bytes_per_device
    outer = planner.plan(_with_outer(palm_540b(), fragments=4), Assumptions()).bytes_per_device
    assert plain.outer == 0
    assert outer.total - plain.total == outer.outer
    # The optimizer has two moments as well.
    assert outer.outer == pytest.approx(plain.optimizer * 9 / 8, rel=1e-6)


def overlapped(job: Job, num_segments: int = 16) -> Job:
    return dataclasses.replace(job, overlaps=True, num_segments=num_segments)


def test_overlap_leaves_what_comes_last_and_more_on_a_slow_link():
    given = Assumptions(peak_flops_per_second=V4_PEAK, link_bytes_per_second=3.2e9, mfu=0.474)
    late, fast = (planner.plan(j, given).speed for j in (palm_540b(), overlapped(palm_540b())))
    compute = late.step_seconds - late.exposed_seconds
    assert fast.step_seconds == pytest.approx(compute + fast.exposed_seconds)
    # The embedding of 256,000 x 18,432 is all that waits for the end of the backward pass, and a
    # sixteenth of the layers has little time before it.
    outside = 257_000 * 18_432 / 540e9
    assert fast.exposed_seconds / late.exposed_seconds == pytest.approx(outside, abs=0.08)
    crawling = dataclasses.replace(given, link_bytes_per_second=1e6)
    late, slow = (planner.plan(j, crawling).speed for j in (palm_540b(), overlapped(palm_540b())))
    # A link that is busy all the time begins when the first segment is ready.
    hidden = late.exposed_seconds - slow.exposed_seconds
    (first, *_) = overlap.departures(PRESETS["palm-540b"], 2048, 16)
    assert hidden == pytest.approx((1 - first.ready) * compute)


def test_of_several_slots_only_the_last_hides_anything():
    given = Assumptions(peak_flops_per_second=V4_PEAK, link_bytes_per_second=1e6, mfu=0.474)
    slots = [(0, 4), (4, 8)]
    one, four = overlapped(palm_540b()), overlapped(palm_540b())
    four = dataclasses.replace(
        four, slots=slots, slot=SlotConfig(microbatch=256, sequence_length=2048)
    )
    hidden = []
    for job in (one, four):
        late = planner.plan(dataclasses.replace(job, overlaps=False), given).speed
        hidden.append(late.exposed_seconds - planner.plan(job, given).speed.exposed_seconds)
    assert hidden[0] == pytest.approx(4 * hidden[1])


@pytest.mark.parametrize("link", [3.2e9, 3e8, 1e8])
def test_a_rate_that_is_assumed_is_taken_apart_as_it_was_put_together(link):
    given = Assumptions(peak_flops_per_second=V4_PEAK, link_bytes_per_second=link, mfu=0.474)
    job = overlapped(palm_540b())
    speed = planner.plan(job, given).speed
    rate = dataclasses.replace(given, mfu=None, tokens_per_second=speed.tokens_per_second)
    again = planner.plan(job, rate).speed
    assert again.exposed_seconds == pytest.approx(speed.exposed_seconds)
    assert again.weak_scaling == pytest.approx(speed.weak_scaling)


def test_a_step_that_the_link_alone_exceeds_is_exposed_altogether():
    given = Assumptions(link_bytes_per_second=1e6, tokens_per_second=238.3e3)
    speed = planner.plan(overlapped(palm_540b()), given).speed
    assert speed.exposed_seconds == speed.step_seconds
    assert speed.weak_scaling is None


def test_what_overlap_hides_depends_on_the_time_of_computing():
    given = Assumptions(link_bytes_per_second=1e9)
    assert planner.plan(palm_540b(), given).speed.exposed_seconds is not None
    assert planner.plan(overlapped(palm_540b()), given).speed.exposed_seconds is None


def test_what_may_be_chosen_needs_memory_for_what_it_loses():
    plain, chosen = (
        planner.plan(
            dataclasses.replace(palm_540b("float32"), error_feedback=True, chosen_dtypes=dtypes),
            Assumptions(),
        )
        for dtypes in ((), ("int8",))
    )
    encoded = planner.plan(
        dataclasses.replace(palm_540b("int8"), error_feedback=True), Assumptions()
    )
    assert plain.bytes_per_device.residuals == 0
    assert chosen.bytes_per_device == encoded.bytes_per_device
