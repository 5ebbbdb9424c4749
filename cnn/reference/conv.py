"""Convolution, forward and backward."""

import numpy as np

from cnn.reference.windows import conv_windows


def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolution with weights w (a cross-correlation: the kernel is not flipped), per image

        y[k,i,j] = b[k] + Σ_{c,r,s} x[c, i·stride + r·dilation, j·stride + s·dilation] w[k,c,r,s]

    where x is first padded with zeros. With groups the channels fall into that many independent convolutions.

    x: (N, C, H, W). w: (K, C/groups, R, S). b: (K,) or None. padding: also "same" or "valid".
    Returns y: (N, K, out_h, out_w). Raises ValueError if the kernel is larger than the padded input.
    """
    n, (k, c) = len(x), w.shape[:2]
    pads, out, taps = conv_windows(x, w, stride, padding, dilation, groups)
    x = _by_group(np.pad(x, ((0, 0), (0, 0), *pads)), groups)
    w = w.reshape(groups, k // groups, *w.shape[1:])
    y = np.zeros((n, groups, k // groups, out[0] * out[1]), x.dtype)
    for r, s, rows, columns in taps:
        seen = x[..., rows, columns].reshape(n, groups, c, out[0] * out[1])  # what tap (r, s) sees of x
        y += w[..., r, s] @ seen
    y = y.reshape(n, k, *out)
    return y if b is None else y + b.reshape(1, k, 1, 1)


def conv2d_backward(dy, x, w, stride=1, padding=0, dilation=1, groups=1):
    """Gradients of `conv2d`, from x and w as they were in the forward pass.

        dw[k,c,r,s] = Σ_{i,j} dy[k,i,j] x[c, i·stride + r·dilation, j·stride + s·dilation]   (and over images)
        db[k]       = Σ_{i,j} dy[k,i,j]                                                      (and over images)
        dx[c,u,v]   = Σ dy[k,i,j] w[k,c,r,s] over every (k,i,j,r,s) with
                      i·stride + r·dilation = u and j·stride + s·dilation = v

    dy: (N, K, out_h, out_w). Returns dx, dw, db, shaped as x, w and b.
    """
    n, (k, c) = len(x), w.shape[:2]
    pads, out, taps = conv_windows(x, w, stride, padding, dilation, groups)
    padded = _by_group(np.pad(x, ((0, 0), (0, 0), *pads)), groups)
    grouped = w.reshape(groups, k // groups, *w.shape[1:])
    dy = dy.reshape(n, groups, k // groups, out[0] * out[1])
    dpadded, dw = np.zeros_like(padded), np.zeros_like(grouped)
    for r, s, rows, columns in taps:
        seen = padded[..., rows, columns].reshape(n, groups, c, out[0] * out[1])
        dw[..., r, s] = (dy @ seen.swapaxes(-1, -2)).sum(axis=0)
        # Where taps overlap in x their shares add up. Within one tap no pixel appears twice, so += is safe.
        share = grouped[..., r, s].swapaxes(-1, -2) @ dy
        dpadded[..., rows, columns] += share.reshape(*share.shape[:-1], *out)
    (top, _), (left, _) = pads
    height, width = x.shape[2:]
    dx = dpadded[..., top : top + height, left : left + width].reshape(x.shape)  # the padding is no input
    return dx, dw.reshape(w.shape), dy.sum(axis=(0, 3)).reshape(k)


def _by_group(x, groups):
    n, channels, height, width = x.shape
    return x.reshape(n, groups, channels // groups, height, width)
