"""PaLM's recipe on real pods: growing batches, evaluation, spikes, and going on elsewhere."""

from __future__ import annotations

import pathlib
import time

import numpy as np
import pytest

from workers.data.batches import BatchPlan
from workers.data.mixture import Mixture, locate

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

STEPS, EVERY, LENGTH = 60, 5, 32
SCHEDULE = [[0, 4], [20, 8]]
POISONED = range(30, 36)
"""Steps whose batches are noise."""


def poisoned_text(seed: int = 0) -> str:
    """English-like text, but for the sequences that stand where the poisoned steps look."""
    clean = "the quick brown fox jumps over the lazy dog and runs away from the bear\n" * 400
    size = (len(clean) + 1 - 1) // LENGTH
    plan = BatchPlan(((1, 4), (21, 8)))
    positions = np.concatenate([plan.positions(step) for step in POISONED])
    _, sequences = locate(Mixture((size,), (size,)), seed, positions)
    noise = np.random.default_rng(1)
    letters = list(clean)
    for sequence in sequences.astype(int):
        start = sequence * LENGTH + 1
        letters[start : start + LENGTH] = map(chr, noise.integers(33, 126, LENGTH))
    return "".join(letters)[: len(clean)]


@pytest.fixture(scope="module")
def document(make_spec, tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(poisoned_text())
    held_out = text.with_name("held-out.txt")
    held_out.write_text("the lazy dog runs away from the quick brown bear and jumps over it\n" * 20)
    source = {"name": "text", "kind": "text", "paths": [str(text)]}
    return make_spec(
        data={"sources": [source], "epochs": 2},
        train={
            "steps": STEPS,
            "global_batch": SCHEDULE,
            "sequence_length": LENGTH,
            "digest_every": 5,
            "eval": {
                "every": 20,
                "sequences": 16,
                "sources": [{**source, "paths": [str(held_out)]}],
            },
            "spikes": {"threshold": 10, "window": 16, "rewind_steps": 3, "skip_steps": 12},
        },
        placement={"pods": {"min": 1, "max": 2}},
        checkpoint={"every": EVERY, "keep": 3},
    )


def timeline(client, job_id: str) -> dict[int, tuple[float, set[str], int]]:
    """Step -> loss, digests and tokens, of the steps that counted in the end."""
    steps = client.steps(job_id, limit=1000)["steps"]
    return {s["step"]: (s["loss"], set(s["digests"].values()), s["tokens"]) for s in steps}


def events(client, job_id: str, kind: str) -> list[dict]:
    return [event for event in client.events(job_id)["events"] if event["kind"] == kind]


@pytest.fixture(scope="module")
def undisturbed(fleet, document):
    """The run that meets the poisoned stretch and is not killed."""
    with fleet() as running:
        running.client.wait_for_pods(2)
        job = running.client.wait(running.client.submit(document)["id"], timeout=300)
        assert job["state"] == "SUCCEEDED", job["reason"]
        return (
            job,
            timeline(running.client, job["id"]),
            events(running.client, job["id"], "spike.rewound"),
        )


def test_a_poisoned_stretch_is_met_by_going_back_and_skipping_it(undisturbed):
    job, steps, (rewound,) = undisturbed
    data = rewound["data"]
    assert data["step"] == POISONED.start
    assert data["to_step"] == 25 and data["skipped"] == 12 * 8
    assert (job["rewinds"], job["skipped"]) == (1, [[120, 216]])
    losses = [loss for loss, _, _ in steps.values()]
    assert max(losses[20:]) < 1.5 * losses[20]
    assert job["tokens"] == (20 * 4 + 40 * 8) * LENGTH
    assert [steps[step][2] for step in (20, 21)] == [20 * 4 * LENGTH, (20 * 4 + 8) * LENGTH]


def test_without_a_policy_the_stretch_is_trained_on(fleet, document, undisturbed):
    job, _, _ = undisturbed
    train = {key: value for key, value in document["train"].items() if key != "spikes"}
    with fleet() as running:
        running.client.wait_for_pods(2)
        other = running.client.submit({**document, "train": train})
        other = running.client.wait(other["id"], timeout=200)
        losses = [loss for loss, _, _ in timeline(running.client, other["id"]).values()]
    assert max(losses[28:36]) > 2 * losses[27]
    assert other["evaluation"]["step"] == job["evaluation"]["step"] == STEPS


def test_held_out_text_is_evaluated_on_the_way(undisturbed):
    job, _, _ = undisturbed
    assert job["evaluation"]["step"] == STEPS
    assert 0 < job["evaluation"]["bits_per_byte"] < 8
    scored = [saved["evaluation_loss"] for saved in job["checkpoints"]]
    assert scored[-1] == job["evaluation"]["loss"] and scored[0] is None


@pytest.mark.parametrize("pods", [2, 1])
def test_a_run_killed_anywhere_ends_in_the_same_bits_spike_and_all(
    fleet, document, undisturbed, pods
):
    reference, expected, _ = undisturbed
    with fleet() as running:
        running.client.wait_for_pods(2)
        job_id = running.client.submit(document)["id"]
        deadline = time.monotonic() + 120
        while running.client.job(job_id)["step"] < (22 if pods == 2 else 32):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.controller.process.kill()
        running.controller.process.wait()
        state: pathlib.Path = running.state
    with fleet(pods, state=state) as running:
        job = running.client.wait(job_id, timeout=200)
        assert job["state"] == "SUCCEEDED", job["reason"]
        assert timeline(running.client, job_id) == expected
        assert (job["skipped"], job["evaluation"]) == (
            reference["skipped"],
            reference["evaluation"],
        )


def test_another_job_goes_on_from_a_checkpoint_on_another_mesh(fleet, make_spec):
    with fleet(1, devices_per_host=2) as running:
        running.client.wait_for_pods(1)

        def job(steps: int, mesh: dict[str, int], **checkpoint: object) -> dict:
            document = make_spec(
                train={"steps": steps},
                placement={"pods": 1, "mesh": mesh},
                checkpoint={"every": 10, **checkpoint},
            )
            done = running.client.wait(running.client.submit(document)["id"], timeout=120)
            assert done["state"] == "SUCCEEDED", done["reason"]
            return done

        whole = job(20, {"data": 2, "model": 1})
        first = job(10, {"data": 2, "model": 1})
        rest = job(20, {"data": 1, "model": 2}, resume_from={"job": first["id"]})
        one, other = (timeline(running.client, done["id"]) for done in (whole, rest))
    assert sorted(other) == list(range(11, 21))
    for step in other:
        assert other[step][0] == pytest.approx(one[step][0], abs=1e-5)
