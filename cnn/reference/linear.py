"""Linear layers, forward and backward."""


def linear(x, weight, bias=None):
    """y = W x + b for each image; x: (N, in), weight: W, (out, in), bias: b, (out,) or None. Returns y: (N, out)."""
    y = x @ weight.T
    return y if bias is None else y + bias


def linear_backward(dy, x, weight):
    """Gradients of `linear`, per image dx = Wᵀ dy, dW = dy xᵀ, db = dy; dw and db are summed over the images.

    dy: (N, out). Returns dx: (N, in), dw: (out, in), db: (out,).
    """
    return dy @ weight, dy.T @ x, dy.sum(axis=0)
