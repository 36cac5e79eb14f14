"""Which positions of the endless stream of sequences a step trains on.

Everything that decides this is here: `workers.data.mixture` maps a position to a sequence and knows
no steps. Steps follow one another without a gap, also across the end of an epoch, so that no
sequence is left out to make an epoch a whole number of steps. Steps count from 1, positions from 0.
"""


def step_positions(step: int, global_batch: int) -> range:
    """Positions of a step, as many as the batch has sequences."""
    if step < 1:
        raise ValueError(f"no batch for step {step}: steps count from 1")
    return range((step - 1) * global_batch, step * global_batch)


def slot_positions(positions: range, slot: int, microbatch: int) -> range:
    """The part of a step's positions that belongs to a microbatch slot."""
    return positions[slot * microbatch : (slot + 1) * microbatch]


def data_steps(epochs: int, epoch_size: int, global_batch: int) -> int:
    """Steps that so many epochs last; 0 when they do not fill a single batch."""
    return epochs * epoch_size // global_batch
