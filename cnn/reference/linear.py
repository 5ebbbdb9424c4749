"""Linear layers, forward and backward."""


def linear(x, w, b=None):
    """y = W x + b for each image; x: (N, in), w: (out, in), b: (out,) or None. Returns y: (N, out)."""
    y = x @ w.T
    return y if b is None else y + b


def linear_backward(dy, x, w):
    """Gradients of `linear`, per image dx = Wᵀ dy, dW = dy xᵀ, db = dy; dw and db are summed over the images.

    dy: (N, out). Returns dx: (N, in), dw: (out, in), db: (out,).
    """
    return dy @ w, dy.T @ x, dy.sum(axis=0)
