"""Which reduction a gang uses."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from workers.orders import ExchangeRule
from workers.reduction.base import Gang, Reduction
from workers.reduction.codec import Bfloat16, Codec, Integers
from workers.reduction.delivering import DeliveringReduction
from workers.reduction.direct import DirectReduction
from workers.reduction.encoded import EncodedReduction
from workers.reduction.lanes import Rule
from workers.reduction.scattered import ScatteredReduction


def reduction_for(
    gang: Gang, rule: ExchangeRule, seed: int, lost: Mapping[str, jax.Array]
) -> Reduction:
    """The one that sends least; a pod alone encodes nothing. `seed` is for random rounding, `lost`
    what is restored of WholeGradients.member_arrays."""
    if gang.num_members > 1 and rule.dtype != "float32":
        encoding = Rule(_codec(rule), rule.error_feedback, seed)
        if rule.error_feedback:
            return EncodedReduction(gang, encoding, lost)
        chosen = EncodedReduction(gang, encoding, {})
    else:
        chosen = ScatteredReduction(gang) if gang.num_members > 2 else DirectReduction(gang)
    return DeliveringReduction(chosen, gang, lost) if lost else chosen


def _codec(rule: ExchangeRule) -> Codec:
    if rule.dtype == "bfloat16":
        return Bfloat16()
    return Integers(4 if rule.dtype == "int4" else 8, rule.stochastic_rounding)
