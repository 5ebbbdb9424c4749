"""Layer normalisation; the formulas stand beside the kernels in _ext/layer_norm.pyx and layer_norm2d.pyx."""
import math

from cnn import shapes
from cnn.engine.memory import LANES
from cnn.ops.operation import Operation, spatial


class _OverElements(Operation):
    """What both have in common. weight, bias: Parameters or None."""

    def __init__(self, owner, weight, bias, eps):
        super().__init__(owner)
        self.weight, self.bias, self.eps = weight, bias, eps
        self.parameters = {name: p for name, p in (("weight", weight), ("bias", bias)) if p is not None}

    def emit(self, program, x):
        gamma, beta = (p and p.data for p in (self.weight, self.bias))
        if program.by_channels:
            gamma, beta = (a if a is None else program.kept(a) for a in (gamma, beta))
        y, backward = self.written(program, x, gamma, beta)

        def back(dy, need_dx):
            return backward(dy, program.gradient(self.weight), program.gradient(self.bias), need_dx)
        return y, back

    def written(self, program, x, gamma, beta):
        """Adds the forward pass. gamma, beta: flat arrays or None. Returns y and a function that adds the backward
        pass: `backward(dy, dgamma, dbeta, need_dx)` fills dgamma and dbeta where they are wanted, returns dx or None.
        """
        raise NotImplementedError


class LayerNorm(_OverElements):
    """Over the last axes of each image. normalized_shape: their sizes; weight, bias: of this shape, or None."""

    name = twin = "layer_norm"

    def __init__(self, owner, normalized_shape, weight, bias, eps):
        super().__init__(owner, weight, bias, eps)
        self.normalized_shape = tuple(normalized_shape)

    def shape(self, x):
        if x[-len(self.normalized_shape):] != self.normalized_shape:
            raise ValueError(f"{self.owner}: the last axes of x must be {shapes.times(self.normalized_shape)}, got "
                             f"{shapes.batch(x)}")
        return x

    def attributes(self):
        return {"normalized_shape": self.normalized_shape}

    def written(self, program, x, gamma, beta):
        size = x.channels, x.height, x.width, x.flat
        count = math.prod(self.normalized_shape)
        if not program.by_channels:
            if x.flat:      # neighbours in memory, as the pixels of a row are
                x = program.view(x, 1, 1, count)
            y, back = self._of_rows(program, x, gamma, beta)
        elif x.flat or (len(self.normalized_shape) == 3 and x.channels > 1):
            x = program.view(x, count, flat=True)
            y, back = over_channels(program, x, gamma, beta, self.eps)
        else:
            y, back = self._of_rows(program, x, gamma, beta)
        seen = x.channels, x.height, x.width, x.flat

        def backward(dy, dgamma, dbeta, need_dx):
            dx = back(program.view(dy, *seen) if seen != size else dy, dgamma, dbeta, need_dx)
            return dx if dx is None or seen == size else program.view(dx, *size)
        return program.view(y, *size) if seen != size else y, backward

    def _of_rows(self, program, x, gamma, beta):
        """Groups of rows of pixels, and of channels where these do not lie side by side."""
        count = math.prod(self.normalized_shape)
        rows = x.height if count > x.width else 1
        planes = count // (rows * x.width)
        groups = x.planes // planes
        y = program.like(x)
        stats = program.tensor(3 * groups * (LANES if program.by_channels else 1), x.height // rows)
        sizes = dict(planes=planes, rows=rows, **x.pixels)
        program.add("layer_norm", lambda: dict(x=x, y=y, stats=stats, gamma=gamma, beta=beta, eps=self.eps, **sizes))
        lanes = x.channels - LANES * (x.planes - 1) if program.by_channels else LANES

        def backward(dy, dgamma, dbeta, need_dx):
            sums = _shard_sums(program, count, dgamma, dbeta)
            dx = program.like(x) if need_dx else None
            program.add("layer_norm_backward", lambda: dict(dy=dy, x=x, stats=stats, dx=dx, gamma=gamma, lanes=lanes,
                                                            **sums, **sizes))
            return dx
        return y, backward


class LayerNorm2d(_OverElements):
    """Over the channels of each pixel. weight, bias: (channels,) or None."""

    name = twin = "layer_norm2d"

    def __init__(self, owner, channels, weight, bias, eps):
        super().__init__(owner, weight, bias, eps)
        self.channels = channels

    def shape(self, x):
        if spatial(self.owner, x)[0] != self.channels:
            raise ValueError(f"{self.owner}: x must have {self.channels} channels, got {x[0]}")
        return x

    def written(self, program, x, gamma, beta):
        return over_channels(program, x, gamma, beta, self.eps)


def over_channels(program, x, gamma, beta, eps):
    """`written` of LayerNorm2d, and of vectors."""
    kernel = "layer_norm2d_channels" if program.by_channels else "layer_norm2d"
    y = program.like(x)
    stats = program.tensor(3 * LANES if program.by_channels else 3, x.height, x.width)
    program.add(kernel, lambda: dict(x=x, y=y, stats=stats, gamma=gamma, beta=beta, eps=eps, **x.size))

    def backward(dy, dgamma, dbeta, need_dx):
        sums = _shard_sums(program, x.channels, dgamma, dbeta)
        dx = program.like(x) if need_dx else None
        program.add(f"{kernel}_backward", lambda: dict(dy=dy, x=x, stats=stats, dx=dx, gamma=gamma, **sums, **x.size))
        return dx
    return y, backward


def _shard_sums(program, count, dgamma, dbeta):
    return {name: None if target is None else program.shard_sum(target, count)
            for name, target in (("dgamma", dgamma), ("dbeta", dbeta))}
