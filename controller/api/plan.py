"""What a job would be, told before it starts.

Numbers follow from the specification alone, or they are null: this version predicts no memory and
no speed, and says so in the warnings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controller.api.conversion import normalise
from controller.api.spec import Spec
from controller.api.validation import pod_range
from controller.core.cluster import Pod, PodState
from model import flops
from model.config import ModelConfig

_NOT_PREDICTED = (
    "link_bytes_per_host_per_step",
    "checkpoint_bytes",
    "step_seconds",
    "exposed_seconds",
    "tokens_per_second",
    "mfu",
    "hfu",
    "weak_scaling",
)


def plan_document(spec: Spec, pods: Iterable[Pod]) -> dict[str, Any]:
    """The plan of a valid specification on the pods there are."""
    config = ModelConfig.from_spec(spec.model)
    length = spec.train.sequence_length
    bytes_per_device = dict.fromkeys(("params", "optimizer", "gradients", "activations", "total"))
    return {
        "parameters": flops.parameter_count(config),
        "model_flops_per_token": flops.model_flops_per_token(config, length),
        "hardware_flops_per_token": flops.hardware_flops_per_token(config, length),
        "bytes_per_device": bytes_per_device,
        **dict.fromkeys(_NOT_PREDICTED),
        "warnings": [*_fit_warnings(spec, list(pods)), *_assumption_warnings(spec)],
        "spec": normalise(spec),
    }


def _fit_warnings(spec: Spec, pods: list[Pod]) -> list[dict[str, str]]:
    mesh = spec.placement.mesh
    devices, (fewest, _) = mesh.data * mesh.model, pod_range(spec.placement)
    fitting = [p for p in pods if p.state is PodState.FORMING or p.num_devices == devices]
    if len(fitting) >= fewest:
        return []
    there_are = ", ".join(f"{pod.name} of {pod.num_devices}" for pod in pods) or "none"
    return [
        {
            "code": "DoesNotFit",
            "message": f"needs {fewest} pods of {devices} devices; there are: {there_are}",
            "hint": "the job would wait; change placement.mesh or placement.pods",
        }
    ]


def _assumption_warnings(spec: Spec) -> list[dict[str, str]]:
    if spec.assume is None:
        return []
    message = "memory, bytes on the link and speed are not predicted in this version"
    return [{"code": "NotPredicted", "message": message, "hint": "`assume` changes nothing yet"}]
