"""Local response normalisation; the formulas stand beside the kernels in _ext/local_norm.pyx."""
from cnn.ops.operation import Operation, spatial


class LocalResponseNorm(Operation):
    """Over `size` neighbouring channels. before: how many of them are before a channel, as PyTorch has it size // 2."""

    name = twin = "local_response_norm"

    def __init__(self, owner, size, alpha, beta, k, before=None):
        super().__init__(owner)
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k
        self.before = size // 2 if before is None else before

    def shape(self, x):
        return spatial(self.owner, x)

    def attributes(self):
        return {"size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}

    def emit(self, program, x):
        kernel = "local_response_norm_channels" if program.by_channels else "local_response_norm"
        window = dict(before=self.before, after=self.size - 1 - self.before, factor=self.alpha / self.size,
                      beta=self.beta)
        y, b = program.like(x), program.like(x)
        program.add(kernel, lambda: dict(x=x, y=y, b=b, k=self.k, **window, **x.size))

        def backward(dy, need_dx):
            if not need_dx:
                return None
            dx, r = program.like(x), program.like(x)
            program.add(f"{kernel}_backward", lambda: dict(dy=dy, x=x, b=b, r=r, dx=dx, **window, **x.size))
            return dx
        return y, backward
