"""Layers whose input takes several ways; the gradients that come back along them add up."""
import numpy as np

from cnn.layers.base import Layer, run_backward, run_forward
from cnn.ops import pointwise


class Residual(Layer):
    """y = body(x) + shortcut(x), where the shortcut is x itself unless it is given (He et al. 2016).

    Both must give arrays of one shape, (N, C, H, W) or (N, features). Names of parameters start with "body." and
    "shortcut.".

    Raises TypeError for what is no layer, and on the first use ValueError where the shapes differ.
    """

    fuses_relu = True

    def __init__(self, body, shortcut=None):
        super().__init__()
        for name, layer in (("body", body), ("shortcut", shortcut)):
            if not isinstance(layer, Layer) and (name == "body" or layer is not None):
                raise TypeError(f"Residual: {name} must be a layer, got {type(layer).__name__}")
        self.body, self.shortcut = body, shortcut

    def children(self):
        return [("body", self.body), *([("shortcut", self.shortcut)] if self.shortcut else [])]

    def emit(self, program, x, relu=False):
        a, body_backward = program.write_layer(self.body, x)
        b, shortcut_backward = (program.write_layer(self.shortcut, x) if self.shortcut
                                else (x, lambda dy, need_dx: dy))
        self._match(a.shape, b.shape)
        y = pointwise.add(program, a, b, program.like(a), relu)

        def backward(dy, need_dx):
            if relu:
                dy = pointwise.mask(program, dy, y)
            shared, dy.root.shared = dy.root.shared, True   # neither way may write over it
            da, db = body_backward(dy, need_dx), shortcut_backward(dy, need_dx)
            dy.root.shared = shared
            return pointwise.add(program, da, db, program.overwritable(da)) if need_dx else None
        return y, backward

    def forward(self, x):
        if self._parts().fused:
            return super().forward(x)
        with self._in_training() as training:
            a, b = run_forward(self.body, x), run_forward(self.shortcut, x) if self.shortcut else x
            self._match(a.shape[1:], b.shape[1:])
            if training:
                self._ran = x.shape
        return a + b

    forward.__doc__ = Layer.forward.__doc__

    def backward(self, dy, need_dx=True):
        if self._parts().fused:
            return super().backward(dy, need_dx)
        if self._ran is None:
            raise RuntimeError("Residual: backward needs a forward in training mode before it")
        self._refuse_repeated()
        da = run_backward(self.body, dy, need_dx, self._ran)
        db = run_backward(self.shortcut, dy, need_dx, self._ran) if self.shortcut else dy
        return da + db if need_dx else None

    backward.__doc__ = Layer.backward.__doc__

    def _match(self, body, shortcut):
        if body != shortcut:
            raise ValueError(f"Residual: the body gives {_batch(body)}, but the shortcut {_batch(shortcut)}: they must "
                             f"be equal")


class Concat(Layer):
    """The channels (or features) of all branches' outputs one after the other; each branch gets the same x.

    All must give (N, C, H, W) with the same H and W, or all (N, features). Names of parameters start with the
    branch's number.

    Raises ValueError without a branch, TypeError for what is no layer, and on the first use ValueError where the
    outputs do not fit together.
    """

    def __init__(self, *branches):
        super().__init__()
        if not branches:
            raise ValueError("Concat: branches must be at least one layer, got none")
        for i, branch in enumerate(branches):
            if not isinstance(branch, Layer):
                raise TypeError(f"Concat: argument {i} must be a layer, got {type(branch).__name__}")
        self.branches = branches

    def children(self):
        return [(str(i), branch) for i, branch in enumerate(self.branches)]

    def emit(self, program, x):
        ways = [program.write_layer(branch, x) for branch in self.branches]
        outputs, backwards = zip(*ways, strict=True)
        first = self._firsts([t.shape for t in outputs])
        y = program.tensor(first[-1], *outputs[0].shape[1:], flat=outputs[0].flat)
        for t, c in zip(outputs, first, strict=False):
            pointwise.copy(program, t, y.part(c, t))

        def backward(dy, need_dx):
            shares = []
            for t, c, back in zip(outputs, first, backwards, strict=False):
                share = program.like(t)
                pointwise.copy(program, dy.part(c, t), share)
                shares.append(back(share, need_dx))
            if not need_dx:
                return None
            dx = shares[0]
            for share in shares[1:]:
                dx = pointwise.add(program, dx, share, program.overwritable(dx))
            return dx
        return y, backward

    def forward(self, x):
        if self._parts().fused:
            return super().forward(x)
        with self._in_training() as training:
            outputs = [run_forward(branch, x) for branch in self.branches]
            splits = self._firsts([y.shape[1:] for y in outputs])[1:-1]
            if training:
                self._ran = x.shape, splits
        return np.concatenate(outputs, 1)

    forward.__doc__ = Layer.forward.__doc__

    def backward(self, dy, need_dx=True):
        if self._parts().fused:
            return super().backward(dy, need_dx)
        if self._ran is None:
            raise RuntimeError("Concat: backward needs a forward in training mode before it")
        self._refuse_repeated()
        size, splits = self._ran
        parts = np.split(dy, splits, 1)
        shares = [run_backward(branch, part, need_dx, size) for branch, part in zip(self.branches, parts, strict=True)]
        return sum(shares) if need_dx else None

    backward.__doc__ = Layer.backward.__doc__

    def _firsts(self, shapes):
        """The first channel of each branch, and the number of all channels."""
        if len({shape[1:] for shape in shapes}) > 1:
            raise ValueError(f"Concat: the branches give {', '.join(map(_batch, shapes))}: they may differ in channels "
                             f"only")
        return [int(n) for n in np.cumsum([0, *(shape[0] for shape in shapes)])]


def _batch(shape):
    return f"(N, {', '.join(map(str, shape))})"
