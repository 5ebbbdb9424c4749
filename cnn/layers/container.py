"""Layers made of layers."""
from cnn.layers.activation import Dropout, ReLU
from cnn.layers.base import Layer
from cnn.layers.conv import Conv2d
from cnn.layers.pool import MaxPool2d


class Sequential(Layer):
    """Layers one after the other; `model[i]` is the i-th. Names of parameters start with its number.

    Neighbouring layers that run in the kernels are run as one program, without leaving it in between, and a
    ReLU becomes a part of the convolution, linear layer, normalisation or pooling that it stands beside.
    Raises TypeError for anything that is no layer.
    """

    def __init__(self, *layers):
        super().__init__()
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential: argument {i} must be a layer, got {type(layer).__name__}")
        self.layers = list(layers)
        self._parts = self._runs = self._split_of = None
        # layers that were given no seed of their own must not draw the same masks
        dropouts = [layer for layer in self.modules() if isinstance(layer, Dropout) and layer.seed is None]
        for number, layer in enumerate(dropouts):
            layer.number = number

    def children(self):
        return [(str(i), layer) for i, layer in enumerate(self.layers)]

    def __len__(self):
        return len(self.layers)

    def __iter__(self):
        return iter(self.layers)

    def __getitem__(self, i):
        return Sequential(*self.layers[i]) if isinstance(i, slice) else self.layers[i]

    @property
    def fused(self):
        return all(layer.fused for layer in self.layers)

    def emit(self, program, x):
        steps, layers = [], list(self.layers)
        while layers:
            layer = layers.pop(0)
            following = type(layers[0]) if layers else None
            relu = following is ReLU and len(layers) > 1 and type(layers[1]) is MaxPool2d
            if type(layer) is Conv2d and (relu or following is MaxPool2d):
                x, back = layer.emit(program, x, relu, layers.pop(relu))
                del layers[:relu]
            elif type(layer) is ReLU and following is MaxPool2d:
                layer = layers.pop(0)
                x, back = layer.emit(program, x, relu=True)
            elif layer.fuses_relu and following is ReLU and not relu:
                layers.pop(0)
                x, back = layer.emit(program, x, relu=True)
            else:
                x, back = layer.emit(program, x)
            steps.append((layer, back))
        # a layer needs no dx where nobody before it has anything to learn
        learns = [any(p.requires_grad for p in layer.parameters()) for layer, _ in steps]

        def backward(dy, need_dx):
            for i in reversed(range(len(steps))):
                if not need_dx and not any(learns[:i + 1]):
                    return None
                dy = steps[i][1](dy, need_dx or any(learns[:i]))
            return dy
        return x, backward

    def forward(self, x):
        if self.fused:
            return super().forward(x)
        self._parts = self._split()
        for part in self._parts:
            x = part.forward(x)
        return x

    forward.__doc__ = Layer.forward.__doc__

    def backward(self, dy, need_dx=True):
        if self.fused:
            return super().backward(dy, need_dx)
        if self._parts is None:
            raise RuntimeError("Sequential: backward needs a forward in training mode before it")
        for part in reversed(self._parts):
            dy = part.backward(dy, need_dx or part is not self._parts[0])
        return dy

    backward.__doc__ = Layer.backward.__doc__

    def _split(self):
        """Runs of fused layers as Sequentials, and the layers between them; kept from call to call."""
        if self._split_of != self.layers:
            self._runs, self._split_of, run = [], list(self.layers), []
            for layer in [*self.layers, None]:
                if layer is not None and layer.fused:
                    run.append(layer)
                    continue
                if run:
                    self._runs.append(Sequential(*run))
                if layer is not None:
                    self._runs.append(layer)
                run = []
        for part in self._runs:
            part.training = self.training
        return self._runs
