from __future__ import annotations

import math

import pytest

from controller.core.spikes import SpikePolicy, judge, remember

POLICY = SpikePolicy(threshold=8, window=32, rewind_steps=10, skip_steps=20, max_rewinds=2)
CALM = tuple(2.0 + 0.1 * math.sin(step) for step in range(32))


def test_a_loss_far_above_those_before_is_a_spike_with_its_numbers() -> None:
    verdict = judge(POLICY, CALM, 4.0)
    assert verdict.is_spike
    assert "the loss is 4," in verdict.reason and "of the 32 steps before" in verdict.reason


@pytest.mark.parametrize("loss", [2.0, 2.3, 0.1])
def test_noise_and_progress_are_none(loss: float) -> None:
    assert not judge(POLICY, CALM, loss).is_spike


def test_a_smooth_curve_does_not_make_a_small_step_a_spike() -> None:
    assert not judge(POLICY, (2.0,) * 32, 2.1).is_spike
    assert judge(POLICY, (2.0,) * 32, 2.2).is_spike


def test_losses_of_zero_are_no_scale() -> None:
    assert not judge(POLICY, (0.0,) * 32, 1.0).is_spike


def test_nothing_is_judged_by_few_losses() -> None:
    assert not judge(POLICY, CALM[:15], 100.0).is_spike
    assert judge(POLICY, CALM[:16], 100.0).is_spike


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("policy", [None, POLICY])
def test_a_loss_that_is_no_number_is_one_at_once(policy: SpikePolicy | None, loss: float) -> None:
    assert judge(policy, (), loss).is_spike


def test_without_a_policy_nothing_else_is_and_nothing_is_remembered() -> None:
    assert not judge(None, CALM, 1e9).is_spike
    assert remember(None, (), 2.0) == ()


@pytest.mark.parametrize("policy", [None, POLICY])
def test_a_gradient_that_is_no_number_loses_the_state_before_the_loss_shows_it(
    policy: SpikePolicy | None,
) -> None:
    verdict = judge(policy, CALM, 2.0, math.inf)
    assert (verdict.is_spike, verdict.is_lost) == (True, True)
    assert verdict.reason == "the norm of the gradient is inf"
    assert not judge(policy, CALM, 2.0, 1e9).is_spike
    assert not judge(policy, CALM, 2.0, None).is_spike


def test_only_the_window_is_remembered() -> None:
    assert remember(POLICY, CALM, 5.0) == (*CALM[1:], 5.0)
