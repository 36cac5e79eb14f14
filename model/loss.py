"""Training loss of one slot: cross entropy plus z-loss (PaLM section 5), in float32.

No label smoothing and no padding: every token counts once.

Suffixes: B batch, L length, V vocabulary.
"""

import jax
import jax.numpy as jnp

# Keeps log Z near zero, which steadies training.
Z_LOSS_COEFFICIENT = 1e-4


def token_losses(logits_BLV: jax.Array, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two arrays [B, L]: negative log-likelihood in nats, and the z-loss 1e-4 * log^2 Z."""
    logits_BLV = logits_BLV.astype(jnp.float32)
    log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    # A comparison instead of a gather: it fuses, and it stays local where the vocabulary is
    # sharded.
    token_V = jnp.arange(logits_BLV.shape[-1], dtype=targets_BL.dtype)
    chosen_BLV = jnp.where(token_V == targets_BL[..., None], logits_BLV, 0.0)
    return log_z_BL - chosen_BLV.sum(axis=-1), Z_LOSS_COEFFICIENT * jnp.square(log_z_BL)
