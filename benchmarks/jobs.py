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
    job = client.wait(client.submit(document)["id"])
    if job["state"] != "SUCCEEDED":
        raise RuntimeError(f"the job {job['state']}: {job['reason']['message']}")
    return job
