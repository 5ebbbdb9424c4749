"""Convolution and transposed convolution, forward and backward."""

import numpy as np

from cnn.reference.windows import conv_windows, transposed_windows


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolution with weights w (a cross-correlation: the kernel is not flipped), per image

        y[k,i,j] = b[k] + Σ_{c,r,s} x[c, i·stride + r·dilation, j·stride + s·dilation] w[k,c,r,s]

    where x is first padded with zeros. With groups the channels fall into that many independent convolutions.

    x: (N, C, H, W). weight: w, (K, C/groups, R, S). bias: b, (K,) or None. padding: also "same" or "valid".
    Returns y: (N, K, out_h, out_w). Raises ValueError if the kernel is larger than the padded input.
    """
    n, (k, c) = len(x), weight.shape[:2]
    pads, out, taps = conv_windows(x, weight, stride, padding, dilation, groups)
    x = _by_group(np.pad(x, ((0, 0), (0, 0), *pads)), groups)
    weight = weight.reshape(groups, k // groups, *weight.shape[1:])
    y = np.zeros((n, groups, k // groups, out[0] * out[1]), x.dtype)
    for r, s, rows, columns in taps:
        seen = x[..., rows, columns].reshape(n, groups, c, out[0] * out[1])  # what tap (r, s) sees of x
        y += weight[..., r, s] @ seen
    y = y.reshape(n, k, *out)
    return y if bias is None else y + bias.reshape(1, k, 1, 1)


def conv2d_backward(dy, x, weight, stride=1, padding=0, dilation=1, groups=1):
    """Gradients of `conv2d`, from x and w as they were in the forward pass.

        dw[k,c,r,s] = Σ_{i,j} dy[k,i,j] x[c, i·stride + r·dilation, j·stride + s·dilation]   (and over images)
        db[k]       = Σ_{i,j} dy[k,i,j]                                                      (and over images)
        dx[c,u,v]   = Σ dy[k,i,j] w[k,c,r,s] over every (k,i,j,r,s) with
                      i·stride + r·dilation = u and j·stride + s·dilation = v

    dy: (N, K, out_h, out_w). Returns dx, dw, db, shaped as x, w and b.
    """
    n, (k, c) = len(x), weight.shape[:2]
    pads, out, taps = conv_windows(x, weight, stride, padding, dilation, groups)
    padded = _by_group(np.pad(x, ((0, 0), (0, 0), *pads)), groups)
    grouped = weight.reshape(groups, k // groups, *weight.shape[1:])
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
    return dx, dw.reshape(weight.shape), dy.sum(axis=(0, 3)).reshape(k)


def _by_group(x, groups):
    n, channels, height, width = x.shape
    return x.reshape(n, groups, channels // groups, height, width)


def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution, the input gradient of a convolution: each pixel of x is multiplied by the whole kernel
    and added to y there, per image

        y[k, i·stride + r·dilation - top, j·stride + s·dilation - left] += x[c,i,j] w[c,k,r,s]

    from b[k] on. What falls into the padding is lost. With groups the channels fall into that many independent ones.

    x: (N, C, H, W). weight: w, (C, K/groups, R, S). bias: b, (K,) or None. padding: an int, a pair or ((top, bottom),
    (left, right)). output_padding: rows and columns that y has more, at its end.
    Returns y: (N, K, out_h, out_w), out_h = (H - 1)·stride - top - bottom + dilation·(R - 1) + output_padding + 1.
    Raises ValueError where nothing is left of y.
    """
    n, (c, k) = len(x), weight.shape[:2]
    pads, out, reached = transposed_windows(x, weight, stride, padding, output_padding, groups, dilation)
    x = x.reshape(n, groups, c // groups, x.shape[2] * x.shape[3])
    weight = weight.reshape(groups, c // groups, *weight.shape[1:])
    y = np.zeros((n, groups, k, *(side + sum(pad) for side, pad in zip(out, pads, strict=True))), x.dtype)
    for r, s, rows, columns in reached:
        # Where taps overlap in y their shares add up. Within one tap no pixel appears twice, so += is safe.
        share = weight[..., r, s].swapaxes(-1, -2) @ x
        seen = y[..., rows, columns]
        seen += share.reshape(seen.shape)
    y = _within(y, pads, out).reshape(n, groups * k, *out)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def conv_transpose2d_backward(dy, x, weight, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Gradients of `conv_transpose2d`, from x and w as they were in the forward pass.

        dw[c,k,r,s] = Σ_{i,j} x[c,i,j] dy[k, i·stride + r·dilation - top, j·stride + s·dilation - left]  (over images)
        db[k]       = Σ_{u,v} dy[k,u,v]                                                                  (over images)
        dx[c,i,j]   = Σ_{k,r,s} dy[k, i·stride + r·dilation - top, j·stride + s·dilation - left] w[c,k,r,s]

    dy: (N, K, out_h, out_w). Returns dx, dw, db, shaped as x, w and b.
    """
    n, (c, k) = len(x), weight.shape[:2]
    pads, _, reached = transposed_windows(x, weight, stride, padding, output_padding, groups, dilation)
    whole = np.pad(dy, ((0, 0), (0, 0), *pads))
    whole = whole.reshape(n, groups, k, *whole.shape[2:])
    grouped = weight.reshape(groups, c // groups, *weight.shape[1:])
    inputs = x.reshape(n, groups, c // groups, x.shape[2] * x.shape[3])
    dx, dw = np.zeros_like(inputs), np.zeros_like(grouped)
    for r, s, rows, columns in reached:
        seen = whole[..., rows, columns].reshape(n, groups, k, inputs.shape[-1])     # what tap (r, s) sees of dy
        dx += grouped[..., r, s] @ seen
        dw[..., r, s] = (inputs @ seen.swapaxes(-1, -2)).sum(axis=0)
    return dx.reshape(x.shape), dw.reshape(weight.shape), dy.sum(axis=(0, 2, 3))


def _within(y, pads, out):
    """y without its padding."""
    (top, _), (left, _) = pads
    return y[..., top : top + out[0], left : left + out[1]]
