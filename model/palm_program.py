"""The PaLM training program: the groups and components of one step.

A slot is one microbatch. `forward_backward` gives the gradients of one slot's mean loss and sums of
its metrics; `accumulate` adds two such results and nothing else, so that a fixed tree of additions
gives the same bits on any number of pods; `apply_update` divides by the number of slots summed,
clips and updates. The order of a group's arrays is that of its names, sorted.

Suffixes: B batch, L length.
"""

import operator

import jax
import jax.numpy as jnp
import optax

from model import digest, flops, palm
from model.config import ModelConfig, OptimizerConfig, SlotConfig
from model.layout import dim_spec
from model.loss import token_losses
from model.optimizer import build_optimizer
from model.program import Buffer, Component, Group, Program
from model.sharding import abstract_mesh

_METRICS = ("loss", "weight", "z_loss")
_RECORD = ("loss", "grad_norm", "learning_rate")

Arrays = tuple[jax.Array, ...]


def palm_program(
    name: str,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    slot: SlotConfig,
    mesh_shape: tuple[int, int],
) -> Program:
    """The program of one job; the configurations must have passed model.config.problems."""
    parts = _PalmComponents(model, optimizer, mesh_shape)
    tokens = slot.microbatch * slot.sequence_length
    length = slot.sequence_length
    model_flops = flops.model_flops_per_token(model, length)
    hardware_flops = flops.hardware_flops_per_token(model, length)
    evaluate_flops = tokens * flops.forward_flops_per_token(model, length)
    return Program(
        name=name,
        mesh_shape=mesh_shape,
        groups=parts.groups(slot),
        components={
            "init": Component(parts.init, ("seed",), ("params", "optimizer")),
            "forward_backward": Component(
                parts.forward_backward,
                ("params", "batch"),
                ("grads", "metrics"),
                flops=tokens * hardware_flops,
            ),
            "accumulate": Component(
                parts.accumulate,
                ("grads", "metrics", "grads", "metrics"),
                ("grads", "metrics"),
                donated=(0, 1),
            ),
            "apply_update": Component(
                parts.apply_update,
                ("params", "optimizer", "grads", "metrics"),
                ("params", "optimizer", "record"),
                donated=(0, 1),
            ),
            "evaluate": Component(
                parts.evaluate, ("params", "batch"), ("metrics",), flops=evaluate_flops
            ),
            "digest": Component(parts.digest, ("params", "optimizer"), ("digest",)),
        },
        facts={
            "parameters": flops.parameter_count(model),
            "compute_dtype": model.compute_dtype,
            "model_flops_per_token": model_flops,
            "hardware_flops_per_token": hardware_flops,
            "tokens_per_slot": tokens,
        },
    )


class _PalmComponents:
    """The component functions, and the layout of the trees behind their flat arguments."""

    def __init__(
        self, model: ModelConfig, optimizer: OptimizerConfig, mesh_shape: tuple[int, int]
    ) -> None:
        self.model = model
        self.optimizer = build_optimizer(optimizer)
        self.mesh_shape = mesh_shape
        self.mesh = abstract_mesh(mesh_shape)
        self.params = _parameter_group(model, mesh_shape)
        abstract = {b.name: jax.ShapeDtypeStruct(b.shape, jnp.float32) for b in self.params}
        self.state = jax.eval_shape(self.optimizer.init, abstract)
        self.state_tree = jax.tree.structure(self.state)

    def groups(self, slot: SlotConfig) -> dict[str, Group]:
        shape = (slot.microbatch, slot.sequence_length)
        spec = dim_spec(("batch", None), shape, self.mesh_shape)
        optimizer = self._optimizer_group()
        lanes = digest.LANES * (len(self.params) + len(optimizer))
        return {
            "params": self.params,
            "optimizer": optimizer,
            "batch": tuple(Buffer(name, shape, "int32", spec) for name in ("inputs", "targets")),
            "grads": self.params,
            "metrics": tuple(Buffer.replicated(name, (), "float32") for name in _METRICS),
            "record": (Buffer.replicated("record", (len(_RECORD),), "float32", _RECORD),),
            "seed": (Buffer.replicated("seed", (), "uint32"),),
            "digest": (Buffer.replicated("digest", (lanes,), "uint32"),),
        }

    def init(self, seed: jax.Array) -> Arrays:
        parameters = palm.initial_parameters(self.model, seed)
        return self._flat(parameters, self.optimizer.init(_wide(parameters)))

    def forward_backward(self, *arrays: jax.Array) -> Arrays:
        *flat, inputs_BL, targets_BL = arrays

        def loss(parameters: palm.Parameters) -> tuple[jax.Array, Arrays]:
            metrics = self._slot_metrics(parameters, inputs_BL, targets_BL)
            return metrics[0] + metrics[2], metrics

        gradients, metrics = jax.grad(loss, has_aux=True)(self._parameters(flat))
        return *self._flat(gradients), *metrics

    def accumulate(self, *arrays: jax.Array) -> Arrays:
        half = len(arrays) // 2
        return tuple(map(operator.add, arrays[:half], arrays[half:]))

    def apply_update(self, *arrays: jax.Array) -> Arrays:
        num_params = len(self.params)
        num_state = self.state_tree.num_leaves
        parameters = self._parameters(arrays[:num_params])
        state = jax.tree.unflatten(self.state_tree, arrays[num_params : num_params + num_state])
        loss, weight, _ = arrays[-len(_METRICS) :]
        gradients = self._parameters(arrays[num_params + num_state : -len(_METRICS)])
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
        return self._slot_metrics(self._parameters(flat), inputs_BL, targets_BL)

    def digest(self, *arrays: jax.Array) -> Arrays:
        return (digest.digest(arrays),)

    def _slot_metrics(
        self, parameters: palm.Parameters, inputs_BL: jax.Array, targets_BL: jax.Array
    ) -> Arrays:
        logits_BLV = palm.logits(self.model, parameters, inputs_BL, self.mesh)
        nll_BL, z_loss_BL = token_losses(logits_BLV, targets_BL)
        return nll_BL.mean(), jnp.float32(1.0), z_loss_BL.mean()

    def _parameters(self, flat: list[jax.Array] | Arrays) -> palm.Parameters:
        names = (buffer.name for buffer in self.params)
        return dict(zip(names, flat, strict=True))

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
            parameter = like.get(keys[-1])
            spec = parameter.spec if parameter else (None,) * len(leaf.shape)
            group.append(Buffer(name, tuple(leaf.shape), str(leaf.dtype), spec))
        return tuple(group)


def _wide(arrays: palm.Parameters) -> palm.Parameters:
    """In float32, where optimizers work."""
    return {name: array.astype(jnp.float32) for name, array in arrays.items()}


def _parameter_group(model: ModelConfig, mesh_shape: tuple[int, int]) -> Group:
    return tuple(
        Buffer(name, info.shape, info.dtype, dim_spec(info.logical_axes, info.shape, mesh_shape))
        for name, info in sorted(palm.parameter_info(model).items())
    )
