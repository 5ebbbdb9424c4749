"""Updates of weights: one step of each optimizer, by PyTorch's rules, and averages.

In a step w, g and the state are flat arrays of one shape and dtype; w and the state are changed in place, g is not.
The state starts as zeros.
"""

import math

import numpy as np


def sgd_update(w, g, velocity, lr, momentum, nesterov, weight_decay, first, dampening=0.0, maximize=False):
    """Stochastic gradient descent with momentum, u the velocity:

        g ← g + weight_decay·w;   u ← momentum·u + (1 - dampening)·g
        w ← w - lr·u   (Nesterov: w - lr·(g + momentum·u))

    velocity: may be None if momentum is 0. first: whether this is the first step, which sets u to g. maximize: go up
    the gradient, g ← -g before all else.
    """
    g = (-g if maximize else g) + weight_decay * w
    if momentum:
        velocity[:] = g if first else momentum * velocity + (1 - dampening) * g
        g = g + momentum * velocity if nesterov else velocity
    w -= lr * g


def adam_update(w, g, m, v, step, lr, beta1, beta2, eps, weight_decay, decoupled, v_max=None, maximize=False):
    """Adam (Kingma and Ba 2015), or AdamW (Loshchilov and Hutter 2019) if decoupled. With t = step:

        Adam: g ← g + weight_decay·w;   AdamW: w ← w - lr·weight_decay·w
        m ← beta1·m + (1 - beta1)·g;    v ← beta2·v + (1 - beta2)·g²
        w ← w - lr · (m / (1 - beta1^t)) / (√(v / (1 - beta2^t)) + eps)

    m, v: running means of the gradient and its square. step: the number of this step, from 1. v_max: None, or the
    largest v so far, which is brought up to date and takes the place of v in the last line (AMSGrad, Reddi et al.
    2018). maximize: go up the gradient, g ← -g before all else.
    """
    g = -g if maximize else g
    if decoupled:
        w *= 1 - lr * weight_decay
    else:
        g = g + weight_decay * w
    m[...] = beta1 * m + (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    if v_max is not None:
        v = v_max[...] = np.maximum(v_max, v)
    denominator = np.sqrt(v) / math.sqrt(1 - beta2**step) + eps
    w -= lr / (1 - beta1**step) * m / denominator


def rmsprop_update(w, g, square, grad_avg, velocity, lr, alpha, eps, weight_decay, momentum, centered,
                   maximize=False):
    """RMSprop (Tieleman and Hinton 2012), s and a running means of g² and g, u the velocity:

        g ← g + weight_decay·w
        s ← alpha·s + (1 - alpha)·g²;   a ← alpha·a + (1 - alpha)·g
        u ← momentum·u + g / (√s + eps)   (centered: √(s - a²));   w ← w - lr·u

    square: s. grad_avg: a, may be None unless centered. velocity: u, may be None if momentum is 0. maximize: go up the
    gradient, g ← -g before all else.
    """
    g = (-g if maximize else g) + weight_decay * w
    square *= alpha
    square += (1 - alpha) * g * g
    variance = square
    if centered:
        grad_avg += (1 - alpha) * (g - grad_avg)
        variance = np.maximum(square - grad_avg * grad_avg, 0)      # below 0 by rounding only
    g = g / (np.sqrt(variance) + eps)
    if momentum:
        velocity *= momentum
        velocity += g
        g = velocity
    w -= lr * g


def average_update(slow, w, decay, copy_back):
    """Exponential moving average of weights, slow ← decay·slow + (1 - decay)·w; Lookahead then sets w ← slow.

    slow, w: arrays of one shape, changed in place. copy_back: whether w is set. Zhang et al. 2019, "Lookahead".
    """
    slow *= decay
    slow += (1 - decay) * w
    if copy_back:
        w[...] = slow
