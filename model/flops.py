"""Parameters, FLOPs and nothing else, as plain arithmetic on a ModelConfig.

The definitions are those of PaLM, appendix B and table 22, so that MFU and HFU mean here what they
mean there. XLA's own count of a compiled component is a different number (it counts softmax and
norms too); the two are compared in tests. Standard library only.
"""

from model.config import ModelConfig

# Of the forward FLOPs outside attention, what PaLM-540B's rematerialisation recomputes (table 22).
_FULL_REMAT_FRACTION = 0.75


def parameter_count(config: ModelConfig) -> int:
    """PaLM's N: the shared embedding and the kernels of the layers (section 2).

    The scales of the norms are trained too but are not in the published counts: with them 540.35B
    would read 540.36B. They are `norm_scale_count`, and the two together are every trained number.
    """
    heads_dim = config.num_heads * config.head_dim
    attention = 2 * config.model_dim * heads_dim + 2 * config.model_dim * config.head_dim
    mlp = 3 * config.model_dim * config.mlp_dim
    return config.vocab_size * config.model_dim + config.num_layers * (attention + mlp)


def norm_scale_count(config: ModelConfig) -> int:
    """The scales of one norm per layer and of the final one; N leaves them out."""
    return (config.num_layers + 1) * config.model_dim


def model_flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """FLOPs one training token needs, recomputation not counted: 6N + 12LHQT (appendix B)."""
    return 6 * parameter_count(config) + 3 * _attention_forward_flops(config, sequence_length)


def hardware_flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """FLOPs one training token costs with the recomputation of `config.remat` (table 22).

    `attention` recomputes the scores and their products with the values; `full` adds the paper's
    75% of the forward pass outside attention.
    """
    flops = model_flops_per_token(config, sequence_length)
    if config.remat == "none":
        return flops
    flops += _attention_forward_flops(config, sequence_length)
    if config.remat == "full":
        flops += round(_FULL_REMAT_FRACTION * 2 * parameter_count(config))
    return flops


def forward_flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """FLOPs of one token of evaluation: 2N + 4LHQT."""
    return 2 * parameter_count(config) + _attention_forward_flops(config, sequence_length)


def forward_and_readout_flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """FLOPs of one training token up to the gradient of the last layer's output: the forward pass,
    and the two gradients of the product that gives the logits, 4DV."""
    readout = 4 * config.model_dim * config.vocab_size
    return forward_flops_per_token(config, sequence_length) + readout


def _attention_forward_flops(config: ModelConfig, sequence_length: int) -> int:
    return 4 * config.num_layers * config.num_heads * config.head_dim * sequence_length
