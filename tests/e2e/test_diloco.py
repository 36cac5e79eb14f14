"""Pods that synchronise every so often: one anchor all along, one model at the end, few bytes."""

import time

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

PARAMETERS = 1_150_000
"""Of palm-tiny, roughly."""

STEPS = 40


def test_pods_share_an_anchor_send_little_and_go_on_after_a_kill_in_the_same_bits(fleet, make_spec):
    """Fragments are sent after 5, 10, 15 steps and so on and applied three steps later, so one is
    under way after the step of every checkpoint."""
    document = make_spec(
        train={"steps": STEPS, "optimizer": {"kind": "adamw"}},
        exchange={
            "mode": "streaming_diloco",
            "dtype": "int4",
            "outer": {"every": 20, "fragments": 4, "delay": 3},
        },
        checkpoint={"every": 10, "keep": 4},
    )
    with fleet(2, 1, 1) as running:
        job = running.client.wait(running.client.submit(document)["id"], timeout=280)
        assert job["state"] == "SUCCEEDED", job["reason"]
        steps = running.client.steps(job["id"], limit=1000)["steps"]
        undisturbed = history(running, job["id"])
        job_id = running.client.submit(document)["id"]
        deadline = time.monotonic() + 120
        while not running.client.job(job_id)["checkpoints"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.controller.process.kill()
        running.controller.process.wait()
        state = running.state
    shares_an_anchor(job, steps)
    sends_little(job, steps)
    with fleet(2, 1, 1, state=state) as running:
        again = running.client.wait(job_id, timeout=280)
        assert again["state"] == "SUCCEEDED", again["reason"]
        assert again["attempt"] > 1 or again["generation"] > 1
        assert history(running, job_id) == undisturbed


def history(running, job_id):
    steps = running.client.steps(job_id, limit=1000)["steps"]
    return {step["step"]: (step["loss"], step["grad_norm"], step["digests"]) for step in steps}


def shares_an_anchor(job, steps) -> None:
    assert job["digest_covers"] == "outer"
    digests = {step["step"]: step["digests"] for step in steps if step["digests"]}
    assert sorted(digests) == list(range(5, STEPS + 1, 5))
    for step, by_pod in digests.items():
        assert sorted(by_pod) == ["pod-0", "pod-1"]
        assert len(set(by_pod.values())) == 1, f"step {step}: {by_pod}"
    assert len({by_pod["pod-0"] for by_pod in digests.values()}) == len(digests)
    assert job["checkpoints"][-1]["state_sha256"] == digests[STEPS]["pod-0"]


def sends_little(job, steps) -> None:
    assert [s["step"] for s in steps if s["link_bytes"]] == [*range(5, STEPS, 5), STEPS]
    losses = [step["loss"] for step in steps]
    assert sum(losses[-5:]) < sum(losses[:5])
    # Seven quarters and a whole, of both pods, at half a byte a number.
    rounds = 7 / 4 + 1
    assert job["link_bytes"] == pytest.approx(2 * rounds * PARAMETERS * 0.516, rel=0.1)
