"""Pods that synchronise every so often: one anchor all along, one model at the end, few bytes."""

import time

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PARAMETERS = 1_150_000
"""Of palm-tiny, roughly."""


def test_streaming_pods_share_an_anchor_and_send_little(fleet, make_spec):
    outer = {"every": 20, "fragments": 4, "delay": 3}
    exchange = {"mode": "streaming_diloco", "dtype": "int4", "outer": outer}
    document = make_spec(train={"steps": 60, "optimizer": {"kind": "adamw"}}, exchange=exchange)
    with fleet(2, 1, 1) as running:
        job = running.client.wait(running.client.submit(document)["id"], timeout=280)
        assert job["state"] == "SUCCEEDED", job["reason"]
        steps = running.client.steps(job["id"], limit=1000)["steps"]
    assert job["digest_covers"] == "outer"
    digests = {step["step"]: step["digests"] for step in steps if step["digests"]}
    assert sorted(digests) == list(range(5, 61, 5))
    for step, by_pod in digests.items():
        assert sorted(by_pod) == ["pod-0", "pod-1"]
        assert len(set(by_pod.values())) == 1, f"step {step}: {by_pod}"
    # Fragments are sent after 5, 10, 15, 20 and so on, and applied three steps later.
    assert len({by_pod["pod-0"] for by_pod in digests.values()}) == len(digests)
    assert [s["step"] for s in steps if s["link_bytes"]] == [*range(5, 60, 5), 60]
    losses = [step["loss"] for step in steps]
    assert sum(losses[-5:]) < sum(losses[:5])
    # Eleven quarters and a whole, of both pods, at half a byte a number.
    rounds = 11 / 4 + 1
    assert job["link_bytes"] == pytest.approx(2 * rounds * PARAMETERS * 0.516, rel=0.1)


def test_what_was_killed_ends_in_the_bits_of_what_was_not(fleet, make_spec):
    """With fragments under way after steps of checkpoints: sent after 10, applied after 12."""
    outer = {"every": 20, "fragments": 4, "delay": 2}
    exchange = {"mode": "streaming_diloco", "outer": outer}
    document = make_spec(
        train={"steps": 40, "optimizer": {"kind": "adamw"}},
        exchange=exchange,
        checkpoint={"every": 10, "keep": 3},
    )

    def history(running, job_id):
        steps = running.client.steps(job_id, limit=1000)["steps"]
        return {s["step"]: (s["loss"], s["grad_norm"], s["digests"]) for s in steps}

    with fleet(2, 1, 1) as running:
        job = running.client.wait(running.client.submit(document)["id"], timeout=280)
        assert job["state"] == "SUCCEEDED", job["reason"]
        undisturbed = history(running, job["id"])
        assert {job["checkpoints"][-1]["state_sha256"]} == set(undisturbed[40][2].values())
        job_id = running.client.submit(document)["id"]
        deadline = time.monotonic() + 120
        while not running.client.job(job_id)["checkpoints"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.controller.process.kill()
        running.controller.process.wait()
        state = running.state
    with fleet(2, 1, 1, state=state) as running:
        job = running.client.wait(job_id, timeout=280)
        assert job["state"] == "SUCCEEDED", job["reason"]
        assert job["attempt"] > 1 or job["generation"] > 1
        assert history(running, job_id) == undisturbed
