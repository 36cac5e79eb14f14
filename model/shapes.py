"""Names, shapes, dtypes and logical axes of PaLM's parameters, known without building the model.

The modules in model.layers and model.palm are what is trained; this is the same list for readers
that have no jax, and a test holds the two together. N is the number of layers.
"""

from typing import NamedTuple

from model.config import ModelConfig

# Parameters under this prefix have the layers as their leading dim.
STACKED_PREFIX = "layers/"


class ParameterInfo(NamedTuple):
    """Shape, dtype and logical axes of one parameter."""

    shape: tuple[int, ...]
    dtype: str
    logical_axes: tuple[str | None, ...]


def parameter_shapes(config: ModelConfig) -> dict[str, ParameterInfo]:
    """Every trained array by name, stacked over the layers where there is one per layer."""
    N, D, F = config.num_layers, config.model_dim, config.mlp_dim
    H, K = config.num_heads, config.head_dim
    arrays: dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]] = {
        "embedding": ((config.vocab_size, D), ("vocab", "embed")),
        "final_norm/scale": ((D,), ("embed",)),
        "layers/attention/key": ((N, D, K), ("layers", "embed", None)),
        "layers/attention/out": ((N, H, K, D), ("layers", "heads", None, "embed")),
        "layers/attention/query": ((N, D, H, K), ("layers", "embed", "heads", None)),
        "layers/attention/value": ((N, D, K), ("layers", "embed", None)),
        "layers/mlp/down": ((N, F, D), ("layers", "mlp", "embed")),
        "layers/mlp/gate": ((N, D, F), ("layers", "embed", "mlp")),
        "layers/mlp/up": ((N, D, F), ("layers", "embed", "mlp")),
        "layers/norm/scale": ((N, D), ("layers", "embed")),
    }
    return {
        name: ParameterInfo(shape, config.param_dtype, axes)
        for name, (shape, axes) in arrays.items()
    }
