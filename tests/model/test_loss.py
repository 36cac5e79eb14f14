import jax
import numpy as np

from model.loss import token_losses


def test_token_losses_random_logits_equal_the_definition():
    logits_BLV = np.asarray(jax.random.normal(jax.random.key(0), (2, 3, 7))) * 3
    targets_BL = np.array([[0, 6, 3], [2, 2, 5]], np.int32)
    nll_BL, z_loss_BL = token_losses(logits_BLV, targets_BL)
    log_z_BL = np.log(np.exp(logits_BLV.astype(np.float64)).sum(-1))
    chosen_BL = np.take_along_axis(logits_BLV, targets_BL[..., None], -1)[..., 0]
    np.testing.assert_allclose(nll_BL, log_z_BL - chosen_BL, rtol=1e-5)
    np.testing.assert_allclose(z_loss_BL, 1e-4 * log_z_BL**2, rtol=1e-5)


def test_token_losses_uniform_logits_cost_log_v():
    nll_BL, _ = token_losses(np.full((1, 2, 288), 5.0, np.float32), np.zeros((1, 2), np.int32))
    np.testing.assert_allclose(nll_BL, np.log(288), rtol=1e-6)
