"""PaLM's recipe on real pods: growing batches, evaluation, spikes, and going on elsewhere."""

from __future__ import annotations

import pathlib
import random
import time

import numpy as np
import pytest

from workers.data.batches import BatchPlan
from workers.data.mixture import Mixture, locate

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

STEPS, EVERY, LENGTH = 60, 5, 32
SCHEDULE = [[0, 4], [20, 8]]
POISONED = range(36, 54)
"""Steps whose batches are noise. The learning rate is low after them: what they break, the rest of
the run cannot mend."""

SPIKES = {"threshold": 10, "window": 16, "rewind_steps": 8, "skip_steps": 30}
SENTENCE = "the quick brown fox jumps over the lazy dog and runs away from the bear\n"


def poisoned_text(clean: str, seed: int = 0) -> str:
    """The text, but for the sequences that stand where the poisoned steps look."""
    size = len(clean) // LENGTH
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
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    clean = SENTENCE * 400
    (folder / "clean.txt").write_text(clean)
    (folder / "poisoned.txt").write_text(poisoned_text(clean))
    (folder / "held-out.txt").write_text(SENTENCE * 20)
    return folder


@pytest.fixture(scope="module")
def document(make_spec, folder):
    source = text_source(folder, "poisoned.txt")
    held_out = text_source(folder, "held-out.txt")
    schedule = {"kind": "cosine", "warmup_steps": 5, "decay_steps": STEPS, "final_ratio": 0.0}
    return make_spec(
        data={"sources": [source], "epochs": 2},
        train={
            "steps": STEPS,
            "global_batch": SCHEDULE,
            "sequence_length": LENGTH,
            "digest_every": 5,
            "optimizer": {"kind": "adafactor", "schedule": schedule},
            "eval": {"every": 15, "sequences": 16, "sources": [held_out]},
            "spikes": SPIKES,
        },
        placement={"pods": {"min": 1, "max": 2}},
        checkpoint={"every": EVERY, "keep": 4},
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


def evaluations(client, job_id: str) -> dict[int, float]:
    """Step -> held-out loss."""
    told = events(client, job_id, "job.evaluated")
    return {event["data"]["step"]: event["data"]["loss"] for event in told}


def test_a_poisoned_stretch_is_met_by_going_back_and_skipping_it(undisturbed):
    job, steps, (rewound,) = undisturbed
    data = rewound["data"]
    assert data["step"] == POISONED.start
    assert data["to_step"] == 25 and data["skipped"] == 30 * 8
    assert (job["rewinds"], job["skipped"]) == (1, [[144, 384]])
    losses = [loss for loss, _, _ in steps.values()]
    assert max(losses[20:]) < 1.5 * losses[20]
    assert job["tokens"] == (20 * 4 + 40 * 8) * LENGTH
    assert [steps[step][2] for step in (20, 21)] == [20 * 4 * LENGTH, (20 * 4 + 8) * LENGTH]


def text_source(folder: pathlib.Path, name: str) -> dict[str, object]:
    return {"name": "text", "kind": "text", "paths": [f"{folder}/{name}"]}


def test_what_was_trained_on_is_told_by_source(undisturbed):
    (source,) = undisturbed[0]["data"]["sources"]
    assert source["seen_tokens"] == source["planned_tokens"] == undisturbed[0]["tokens"]
    assert source["tokens"] == len(SENTENCE) * 400 + 1


def test_a_run_recovers_with_the_policy_and_does_not_without(fleet, document, undisturbed, folder):
    """Held-out loss at the end, against that of a run on clean text: measured 1.2 times with the
    policy, 19 times without."""
    train = {key: value for key, value in document["train"].items() if key != "spikes"}
    clean = {**document["data"], "sources": [text_source(folder, "clean.txt")]}
    with fleet() as running:
        running.client.wait_for_pods(2)
        found = []
        for changed in ({"train": train}, {"train": train, "data": clean}):
            job = running.client.submit({**document, **changed})
            job = running.client.wait(job["id"], timeout=200)
            assert job["state"] == "SUCCEEDED", job["reason"]
            found.append(evaluations(running.client, job["id"]))
    without, untouched = found
    assert without[STEPS] > 2 * without[30] and without[STEPS] > 5 * untouched[STEPS]
    assert undisturbed[0]["evaluation"]["loss"] < 2 * untouched[STEPS] < untouched[30]


def test_held_out_text_is_evaluated_on_the_way(undisturbed):
    job, _, _ = undisturbed
    assert job["evaluation"]["step"] == STEPS
    assert 0 < job["evaluation"]["bits_per_byte"] < 8
    scored = {saved["step"]: saved["evaluation_loss"] for saved in job["checkpoints"]}
    assert scored[STEPS] == job["evaluation"]["loss"] and scored[STEPS - EVERY] is None


@pytest.mark.parametrize("pods", [2, pytest.param(1, marks=pytest.mark.long)])
def test_a_run_killed_anywhere_ends_in_the_same_bits_spike_and_all(
    fleet, document, undisturbed, pods
):
    reference, expected, _ = undisturbed
    last = random.randrange(1, STEPS - 5)
    # At any step, or at any after the spike, from which one pod goes on alone.
    rewinds = 0 if pods == 2 else 1
    print(f"everything is killed after step {last}, {rewinds} rewinds")  # shown in a failure
    with fleet() as running:
        running.client.wait_for_pods(2)
        job_id = running.client.submit(document)["id"]
        deadline = time.monotonic() + 120
        while (job := running.client.job(job_id))["step"] < last or job["rewinds"] < rewinds:
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


def test_a_job_says_in_whose_data_it_goes_on(fleet, document, folder):
    """Batches of 4 and then of 8, against one job of both: every sequence once, the same bits."""
    data = {**document["data"], "sources": [text_source(folder, "clean.txt")]}
    other = {**data, "sources": [text_source(folder, "held-out.txt")]}
    with fleet(1) as running:
        running.client.wait_for_pods(1)

        def job(steps: int, batch: object, of: dict, **resume: object) -> dict:
            train = {"steps": steps, "global_batch": batch, "sequence_length": LENGTH}
            train["digest_every"] = 5
            checkpoint = {"every": 10, **({"resume_from": resume} if resume else {})}
            submitted = running.client.submit(
                {
                    **document,
                    "data": of,
                    "train": {**train, "microbatch": document["train"]["microbatch"]},
                    "placement": {"pods": 1},
                    "checkpoint": checkpoint,
                }
            )
            return running.client.wait(submitted["id"], timeout=200)

        whole = job(20, [[0, 4], [10, 8]], data)
        first = job(10, 4, data)
        rest = job(20, 8, data, job=first["id"])
        refused = job(20, 8, other, job=first["id"])
        anew = job(20, 8, other, job=first["id"], data="anew")
        one, second = (timeline(running.client, done["id"]) for done in (whole, rest))
    assert (rest["state"], rest["tokens"]) == ("SUCCEEDED", whole["tokens"])
    assert second == {step: one[step] for step in range(11, 21)}
    assert [source["seen_tokens"] for source in rest["data"]["sources"]] == [whole["tokens"]]
    assert (refused["state"], refused["reason"]["code"]) == ("FAILED", "DataChanged")
    assert "resume_from.data: anew" in refused["reason"]["message"]
    assert (anew["state"], anew["tokens"]) == ("SUCCEEDED", whole["tokens"])
    (source,) = anew["data"]["sources"]
    assert source["seen_tokens"] == source["planned_tokens"] == 10 * 8 * LENGTH
