"""The layout of model.layout in the words of jax: meshes without devices, shardings, pins."""

from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from model.layout import AXIS_RULES, MESH_AXES, DimSpec


def abstract_mesh(mesh_shape: tuple[int, int]) -> AbstractMesh:
    """The mesh without devices.

    Axis types must be Auto here and at the worker, or calls of exported programs are refused.
    """
    return AbstractMesh(mesh_shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def named_sharding(spec: DimSpec, mesh: AbstractMesh | jax.sharding.Mesh) -> NamedSharding:
    """The jax sharding of a dim spec on a mesh."""
    return NamedSharding(mesh, PartitionSpec(*spec))


def constrain(
    x: jax.Array, logical_axes: Sequence[str | None], mesh: AbstractMesh | None
) -> jax.Array:
    """Pins an activation inside a traced function; without a mesh, nothing to pin.

    Inside a program XLA pads uneven splits, so here a dim need not be divisible (PaLM-540B's
    vocabulary over 12).
    """
    if mesh is None:
        return x
    rules = dict(AXIS_RULES)
    spec = PartitionSpec(*(rules.get(axis or "") for axis in logical_axes))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
