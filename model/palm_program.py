"""The PaLM training program: the groups and components of one step.

A slot is one microbatch. The calls of model.palm_gradient give the gradients of one slot's mean
loss and sums of its metrics, in segments; a segment's `accumulate` adds two such results and
nothing else, so that a fixed tree of additions gives the same bits on any number of pods;
`apply_update` divides by the number of slots summed, clips and updates. The order of a group's
arrays is that of its names, sorted.
"""

import jax
import jax.numpy as jnp
import optax

from model import digest, flops, palm
from model.config import ModelConfig, OptimizerConfig, SlotConfig
from model.optimizer import build_optimizer
from model.outer import OuterOptimizer
from model.outer_config import OuterConfig
from model.palm_gradient import Arrays, PalmGradient
from model.program import Buffer, Component, Group, Program
from model.segments import segment_count

_RECORD = ("loss", "grad_norm", "learning_rate")


def palm_program(
    name: str,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    slot: SlotConfig,
    mesh_shape: tuple[int, int],
    num_segments: int | None = None,
    outer_config: OuterConfig | None = None,
) -> Program:
    """The program of one job; the configurations must have passed model.config.problems. The number
    of segments of the layers is model.segments.segment_count unless given. With `outer_config`, the
    pods synchronise by it, and not after every step."""
    gradient = PalmGradient(model, slot, mesh_shape, num_segments or segment_count(model))
    step = _PalmStep(model, optimizer, gradient)
    outer = OuterOptimizer(gradient.params, outer_config) if outer_config else None
    tokens = slot.microbatch * slot.sequence_length
    length = slot.sequence_length
    segments = gradient.segments()
    gradients = tuple(name for segment in segments for name in segment.groups)
    evaluate_flops = tokens * flops.forward_flops_per_token(model, length)
    return Program(
        name=name,
        mesh_shape=mesh_shape,
        groups=gradient.groups() | step.groups() | (outer.groups() if outer else {}),
        components={
            "init": Component(step.init, ("seed",), ("params", "optimizer")),
            **gradient.components(),
            "apply_update": Component(
                step.apply_update,
                ("params", "optimizer", *gradients),
                ("params", "optimizer", "record"),
                donated=(0, 1),
            ),
            "evaluate": Component(
                step.evaluate, ("params", "batch"), ("metrics",), flops=evaluate_flops
            ),
            "digest": Component(step.digest, ("params", "optimizer"), ("digest",)),
            **(outer.components() if outer else {}),
        },
        slot=gradient.calls(),
        segments=segments,
        outer=outer.plan() if outer else None,
        facts={
            "parameters": flops.parameter_count(model),
            "compute_dtype": model.compute_dtype,
            "model_flops_per_token": flops.model_flops_per_token(model, length),
            "hardware_flops_per_token": flops.hardware_flops_per_token(model, length),
            "tokens_per_slot": tokens,
        },
    )


class _PalmStep:
    """What is done with the gradients of a step, and with the state between steps."""

    def __init__(
        self, model: ModelConfig, optimizer: OptimizerConfig, gradient: PalmGradient
    ) -> None:
        self.model = model
        self.optimizer = build_optimizer(optimizer)
        self.gradient = gradient
        self.params = gradient.params
        abstract = {b.name: jax.ShapeDtypeStruct(b.shape, jnp.float32) for b in self.params}
        self.state = jax.eval_shape(self.optimizer.init, abstract)
        self.state_tree = jax.tree.structure(self.state)

    def groups(self) -> dict[str, Group]:
        optimizer = self._optimizer_group()
        lanes = digest.LANES * (len(self.params) + len(optimizer))
        return {
            "optimizer": optimizer,
            "record": (Buffer.replicated("record", (len(_RECORD),), "float32", _RECORD),),
            "seed": (Buffer.replicated("seed", (), "uint32"),),
            "digest": (Buffer.replicated("digest", (lanes,), "uint32"),),
        }

    def init(self, seed: jax.Array) -> Arrays:
        parameters = palm.initial_parameters(self.model, seed)
        return self._flat(parameters, self.optimizer.init(_wide(parameters)))

    def apply_update(self, *arrays: jax.Array) -> Arrays:
        num_params = len(self.params)
        num_state = num_params + self.state_tree.num_leaves
        parameters = self.gradient.parameters(arrays[:num_params])
        state = jax.tree.unflatten(self.state_tree, arrays[num_params:num_state])
        gradients, (loss, weight, _) = self.gradient.joined(arrays[num_state:])
        mean = {name: gradient / weight for name, gradient in _wide(gradients).items()}
        learning_rate = self.optimizer.next_learning_rate(state)
        record = jnp.stack([loss / weight, optax.tree.norm(mean), learning_rate])
        updates, state = self.optimizer.update(mean, state, _wide(parameters))
        updated = {
            name: (parameter + updates[name]).astype(parameter.dtype)
            for name, parameter in parameters.items()
        }
        return *self._flat(updated, state), record

    def evaluate(self, *arrays: jax.Array) -> Arrays:
        *flat, inputs_BL, targets_BL = arrays
        parameters = self.gradient.parameters(tuple(flat))
        logits_BLV = palm.logits(self.model, parameters, inputs_BL, self.gradient.mesh)
        return self.gradient.metrics(logits_BLV, targets_BL)

    def digest(self, *arrays: jax.Array) -> Arrays:
        return (digest.digest(arrays),)

    def _flat(self, parameters: palm.Parameters, *states: optax.OptState) -> Arrays:
        ordered = [parameters[buffer.name] for buffer in self.params]
        return *ordered, *jax.tree.leaves(states)

    def _optimizer_group(self) -> Group:
        """State that mirrors a parameter is sharded like it; the rest (counts) is replicated."""
        like = {buffer.name: buffer for buffer in self.params}
        group = []
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.state):
            keys = [str(getattr(key, "key", getattr(key, "name", None))) for key in path]
            name = "/".join(key for key in keys if key != "None")
            if name in {buffer.name for buffer in group}:
                # Several links of a chain of transformations may count steps.
                place = next(key.idx for key in reversed(path) if hasattr(key, "idx"))
                name = f"{name}_{place}"
            parameter = like.get(keys[-1])
            spec = parameter.spec if parameter else (None,) * len(leaf.shape)
            group.append(Buffer(name, tuple(leaf.shape), str(leaf.dtype), spec))
        return tuple(group)


def _wide(arrays: palm.Parameters) -> palm.Parameters:
    """In float32, where optimizers work."""
    return {name: array.astype(jnp.float32) for name, array in arrays.items()}
