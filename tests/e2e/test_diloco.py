"""Pods that synchronise every so often: one anchor all along, one model at the end, few bytes."""

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
