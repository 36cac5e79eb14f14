"""All pods hold the same bits, and how many pods there are does not change them."""

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def digests_of(client, job_id: str) -> dict[int, dict[str, str]]:
    """Step -> pod -> digest, for the steps on which digests were taken."""
    steps = client.steps(job_id, limit=1000)["steps"]
    return {step["step"]: step["digests"] for step in steps if step["digests"]}


def finished(client, document) -> dict:
    job = client.wait(client.submit(document)["id"], timeout=280)
    assert job["state"] == "SUCCEEDED", job["reason"]
    return job


@pytest.mark.parametrize(
    ("hosts_per_pod", "devices_per_host", "mesh"),
    [
        pytest.param(1, 1, {"data": 1, "model": 1}, id="one device a pod"),
        pytest.param(1, 4, {"data": 2, "model": 2}, id="a (2,2) mesh a pod"),
        pytest.param(2, 1, {"data": 2, "model": 1}, id="two hosts a pod"),
    ],
)
def test_two_pods_of_any_shape_agree_at_every_digest_step(
    fleet, make_spec, hosts_per_pod, devices_per_host, mesh
):
    with fleet(2, hosts_per_pod, devices_per_host) as running:
        job = finished(running.client, make_spec(placement={"mesh": mesh}))
        digests = digests_of(running.client, job["id"])
        losses = [s["loss"] for s in running.client.steps(job["id"], limit=1000)["steps"]]
    assert sorted(digests) == list(range(5, 51, 5))
    for step, by_pod in digests.items():
        assert sorted(by_pod) == ["pod-0", "pod-1"]
        assert len(set(by_pod.values())) == 1, f"step {step}: {by_pod}"
    assert len({by_pod["pod-0"] for by_pod in digests.values()}) == len(digests)
    assert len(losses) == 50
    assert sum(losses[-5:]) < sum(losses[:5])


def test_number_of_pods_does_not_change_the_bits(fleet, make_spec):
    with fleet(pods=4) as running:
        histories = {}
        for pods in (1, 2, 3, 4):
            document = make_spec(train={"steps": 20, "global_batch": 8}, placement={"pods": pods})
            job = finished(running.client, document)
            assert len(job["pods"]) == pods
            digests = digests_of(running.client, job["id"])
            histories[pods] = {step: set(by_pod.values()) for step, by_pod in digests.items()}
    assert list(histories[1]) == [5, 10, 15, 20]
    assert all(len(values) == 1 for values in histories[1].values())
    assert histories[2] == histories[1]
    assert histories[3] == histories[1]
    assert histories[4] == histories[1]
