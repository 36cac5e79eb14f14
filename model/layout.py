"""Where every dim of every array lives: one table from logical axes to mesh axes, and one function.

The mesh of a pod has exactly the axes `data` and `model`. Parameters, gradients and optimizer state
are fully sharded over `data` along the model dim (FSDP: they are gathered as they are used) and
over `model` along heads, mlp and vocabulary; the batch is split over `data`. The one key and value
head of multi-query attention cannot be split. Nothing here knows devices, and nothing needs jax.
"""

from collections.abc import Sequence

MESH_AXES = ("data", "model")

# (logical axis, mesh axis); what is not named is replicated. `embed` is the model dim of a
# parameter, `residual` that of an activation: PaLM keeps one fully sharded activation per layer
# (section 4), so it is split over `model`.
AXIS_RULES = (
    ("batch", "data"),
    ("embed", "data"),
    ("residual", "model"),
    ("heads", "model"),
    ("mlp", "model"),
    ("vocab", "model"),
)

# One entry per dim: None, or the mesh axes that split it.
DimSpec = tuple[tuple[str, ...] | None, ...]


def dim_spec(
    logical_axes: Sequence[str | None], shape: Sequence[int], mesh_shape: tuple[int, int]
) -> DimSpec:
    """The mesh axes of each dim; a dim its mesh axis does not divide is replicated along it."""
    ways: dict[str, int] = dict(zip(MESH_AXES, mesh_shape, strict=True))
    rules = dict(AXIS_RULES)
    mesh_axes = [rules.get(logical or "") for logical in logical_axes]
    return tuple(
        (axis,) if axis is not None and size % ways[axis] == 0 else None
        for axis, size in zip(mesh_axes, shape, strict=True)
    )
