"""FLOPs of the matrix products in a traced function, every turn of every loop counted.

XLA's own count takes the body of a loop once and stands for one device. Here recomputation counts
as it was traced, and sharding not at all: the number is for the whole mesh.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def matrix_flops(jaxpr: core.Jaxpr) -> int:
    """Twice the multiplications of every dot_general. Raises ValueError at a `while`, whose turns
    are not known; a `cond` counts as its dearest branch."""
    return sum(_flops(equation) for equation in jaxpr.eqns)


def _flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        depth = math.prod(shape[dim] for dim in contracted)
        return 2 * math.prod(equation.outvars[0].aval.shape) * depth
    inner = [matrix_flops(jaxpr) for jaxpr in _inner(params)]
    if name == "while" and any(inner):
        raise ValueError("matrix products in a loop of unknown length")
    if name == "cond":
        return max(inner)
    return params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
