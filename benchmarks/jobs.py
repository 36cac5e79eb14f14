"""The small job that benchmarks run, and how one is run to its end."""

from __future__ import annotations

from typing import Any

from landbridge.client import Client

Document = dict[str, Any]

SPEC: Document = {
    "version": 1,
    "name": "benchmark",
    "model": {"preset": "palm-tiny"},
    "data": {"sources": [{"name": "lib", "kind": "text", "paths": ["python-stdlib:*.py"]}]},
    "train": {"steps": 1, "global_batch": 8, "microbatch": 4, "sequence_length": 256},
    "placement": {"pods": 1, "mesh": {"data": 1, "model": 1}},
}


def spec(steps: int, **sections: Document) -> Document:
    """The job with so many steps and other sections; of `train`, only the keys that are given."""
    train = {**SPEC["train"], **sections.pop("train", {}), "steps": steps}
    return {**SPEC, "train": train, **sections}


def succeeded(client: Client, document: Document) -> Document:
    """Run it to its end; RuntimeError when it does not succeed."""
    return ended_well(client, client.submit(document)["id"])


def ended_well(client: Client, job_id: str) -> Document:
    """A job once it has ended; RuntimeError when it did not succeed."""
    job = client.wait(job_id)
    if job["state"] != "SUCCEEDED":
        raise RuntimeError(f"the job {job['state']}: {job['reason']['message']}")
    return job


def last_evaluation(job: Document, steps: int) -> Document:
    """That of held-out text after its last step; RuntimeError when there is none."""
    evaluation = job["evaluation"]
    if evaluation is None or evaluation["step"] != steps:
        raise RuntimeError(f"job {job['id']} did not evaluate its last step, but {evaluation}")
    return evaluation
