"""The outer optimizer: an anchor that all pods share, and how it moves with the parameters of the
pods, fragment by fragment.

A pod's outer gradient is how far it came from the anchor, anchor - parameters, times its share of
the batch: the sum over the pods is then their weighted mean. The anchor takes a step of SGD with
Nesterov momentum along it, and the pod goes on from a mix of its own parameters and the anchor.
Layers go to fragments in strides, so that each has some from the bottom and some from the top; the
parameters outside the layers go with the last fragment, which has the fewest layers.

All of it is float32, whatever the parameters are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from model import digest
from model.outer_config import OuterConfig
from model.program import Buffer, Component, Fragment, Group, Outer
from model.shapes import STACKED_PREFIX

Arrays = tuple[jax.Array, ...]
Named = dict[str, jax.Array]


class OuterOptimizer:
    """Groups and components for a group of parameters."""

    def __init__(self, params: Group, config: OuterConfig) -> None:
        self.params = params
        self.config = config

    def plan(self) -> Outer:
        """When the components run."""
        fragments = tuple(
            Fragment(f"fragment_{index}", f"outer_gradient_{index}", f"outer_update_{index}")
            for index in range(self.config.fragments)
        )
        return Outer(
            every=self.config.every,
            delay=self.config.delay,
            fragments=fragments,
            init="outer_init",
            finish="outer_finish",
            digest="outer_digest",
        )

    def groups(self) -> dict[str, Group]:
        """The state, the fragments of an outer gradient, and a pod's weight."""
        lanes = digest.LANES * 2 * len(self.params)
        return {
            "outer": (*self._like("anchor/"), *self._like("momentum/")),
            "weight": (Buffer.replicated("weight", (), "float32"),),
            "outer_digest": (Buffer.replicated("outer_digest", (lanes,), "uint32"),),
            **{
                fragment.group: self._fragment_group(index)
                for index, fragment in enumerate(self.plan().fragments)
            },
        }

    def components(self) -> dict[str, Component]:
        """Those of every fragment, and those of all."""
        plan = self.plan()
        groups = tuple(fragment.group for fragment in plan.fragments)
        state = ("params", "outer")
        components = {
            plan.init: Component(self._init, ("params",), ("outer",)),
            plan.finish: Component(self._finish, (*state, *groups), state, donated=(0, 1)),
            plan.digest: Component(self._digest, ("outer",), ("outer_digest",)),
        }
        for index, fragment in enumerate(plan.fragments):
            components[fragment.gradient] = Component(
                self._gradient_of(index), (*state, "weight"), (fragment.group,)
            )
            components[fragment.update] = Component(
                self._update_of(index), (*state, fragment.group), state, donated=(0, 1)
            )
        return components

    def _init(self, *params: jax.Array) -> Arrays:
        anchor = [array.astype(jnp.float32) for array in params]
        return *anchor, *(jnp.zeros_like(array) for array in anchor)

    def _gradient_of(self, index: int) -> Callable[..., Arrays]:
        def gradient(*arrays: jax.Array) -> Arrays:
            *state, weight = arrays
            params, anchor, _ = self._named(state)
            return tuple(
                weight * (anchor[name][rows] - params[name][rows].astype(jnp.float32))
                for name, rows in self._rows(index).items()
            )

        return gradient

    def _update_of(self, index: int) -> Callable[..., Arrays]:
        config = self.config

        def update(*arrays: jax.Array) -> Arrays:
            params, anchor, momentum = self._named(arrays)
            gradients = arrays[3 * len(self.params) :]
            for (name, rows), gradient in zip(self._rows(index).items(), gradients, strict=True):
                first = config.momentum * momentum[name][rows] + gradient
                step = gradient + config.momentum * first
                moved = anchor[name][rows] - config.learning_rate * step
                mixed = moved
                if config.mixing:
                    own = params[name][rows].astype(jnp.float32)
                    mixed = config.mixing * own + (1.0 - config.mixing) * moved
                momentum[name] = momentum[name].at[rows].set(first)
                anchor[name] = anchor[name].at[rows].set(moved)
                params[name] = params[name].at[rows].set(mixed.astype(params[name].dtype))
            return *params.values(), *anchor.values(), *momentum.values()

        return update

    def _finish(self, *arrays: jax.Array) -> Arrays:
        """The mean of all pods as parameters and anchor, once there is nothing more to come: a step
        with momentum is meant to be corrected by the next."""
        params, anchor, momentum = self._named(arrays)
        left = list(arrays[3 * len(self.params) :])
        for index in range(self.config.fragments):
            for name, rows in self._rows(index).items():
                anchor[name] = anchor[name].at[rows].add(-left.pop(0))
        last = (anchor[name].astype(array.dtype) for name, array in params.items())
        return *last, *anchor.values(), *momentum.values()

    def _digest(self, *outer: jax.Array) -> Arrays:
        return (digest.digest(outer),)

    def _named(self, arrays: list[jax.Array] | Arrays) -> tuple[Named, Named, Named]:
        """Parameters, anchor and momentum by name, of the arrays that begin with them."""
        names, count = [buffer.name for buffer in self.params], len(self.params)
        params, anchor, momentum = (
            dict(zip(names, arrays[start : start + count], strict=True))
            for start in (0, count, 2 * count)
        )
        return params, anchor, momentum

    def _rows(self, index: int) -> dict[str, slice]:
        """What of each parameter belongs to a fragment; parameters that do not are absent."""
        count = self.config.fragments
        rows = {}
        for buffer in self.params:
            if buffer.name.startswith(STACKED_PREFIX):
                rows[buffer.name] = slice(index, None, count)
            elif index == count - 1:
                rows[buffer.name] = slice(None)
        return rows

    def _fragment_group(self, index: int) -> Group:
        by_name = {buffer.name: buffer for buffer in self.params}
        group = []
        for name, rows in self._rows(index).items():
            whole, *rest = by_name[name].shape
            shape = (len(range(*rows.indices(whole))), *rest)
            group.append(Buffer(name, shape, "float32", by_name[name].spec))
        return tuple(group)

    def _like(self, prefix: str) -> Group:
        return tuple(
            Buffer(prefix + buffer.name, buffer.shape, "float32", buffer.spec)
            for buffer in self.params
        )
