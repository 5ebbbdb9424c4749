"""Factors and summands of channels that lie side by side."""
import numpy as np

from cnn.engine.memory import LANES


def fitted(program, channels, b, norm=None):
    """scale and shift of each channel, for bias and normalisation."""
    count = -(-channels // LANES) * LANES
    constants = dict(mean=None, var=None, gamma=None, beta=None, eps=0) if norm is None else norm.constants()
    return program.packed("fit", lambda scale, shift: dict(bias=b, scale=scale, shift=shift, channels=channels,
                                                           **constants), 1, count, count)


def plain(program, channels):
    """The same where nothing is scaled or added: ones and zeros."""
    count = -(-channels // LANES) * LANES
    return np.ones(count, program.dtype), np.zeros(count, program.dtype)
