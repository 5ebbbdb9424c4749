"""Layers made of layers."""
from cnn.engine.watch import WatchedList
from cnn.layers.activation import ReLU
from cnn.layers.base import Layer, number_dropouts, run_backward, run_forward, watched
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
        # layers that were given no seed of their own must not draw the same masks
        number_dropouts(self.modules())

    def __setattr__(self, name, value):
        super().__setattr__(name, WatchedList(self._stamp, value) if name == "layers" else value)

    def children(self):
        return [(str(i), layer) for i, layer in enumerate(self.layers)]

    def __len__(self):
        return len(self.layers)

    def __iter__(self):
        return iter(self.layers)

    def __getitem__(self, i):
        return Sequential(*self.layers[i]) if isinstance(i, slice) else self.layers[i]

    def emit(self, program, x):
        steps, layers = [], list(self.layers)
        while layers:
            layer = layers.pop(0)
            following = type(layers[0]) if layers else None
            if program.watch is not None:
                following = None        # so that each layer is seen
            relu = following is ReLU and len(layers) > 1 and type(layers[1]) is MaxPool2d
            if type(layer) is Conv2d and (relu or following is MaxPool2d):
                x, back = program.write_layer(layer, x, relu=relu, pool=layers.pop(relu))
                del layers[:relu]
            elif type(layer) is ReLU and following is MaxPool2d:
                layer = layers.pop(0)
                x, back = program.write_layer(layer, x, relu=True)
            elif layer.fuses_relu and following is ReLU and not relu:
                layers.pop(0)
                x, back = program.write_layer(layer, x, relu=True)
            else:
                x, back = program.write_layer(layer, x)
            steps.append((layer.parameters(), back))

        def backward(dy, need_dx):
            # a layer needs no dx where nobody before it has anything to learn
            learns = [any(p.requires_grad for p in parameters) for parameters, _ in steps]
            for i in reversed(range(len(steps))):
                if not need_dx and not any(learns[:i + 1]):
                    return None
                dy = steps[i][1](dy, need_dx or any(learns[:i]))
            return dy
        return x, backward

    def forward(self, x):
        if self._parts().fused:
            return super().forward(x)
        with self._in_training() as training:
            runs, sizes = list(self.layers) if watched() else self._split(), []
            for layer in runs:
                sizes.append(x.shape)
                x = run_forward(layer, x)
            if training:
                self._ran = runs, sizes
        return x

    forward.__doc__ = Layer.forward.__doc__

    def backward(self, dy, need_dx=True):
        if self._parts().fused:
            return super().backward(dy, need_dx)
        if self._ran is None:
            raise RuntimeError("Sequential: backward needs a forward in training mode before it")
        self._refuse_repeated()
        runs, sizes = self._ran
        for layer, size in zip(reversed(runs), reversed(sizes), strict=True):
            dy = run_backward(layer, dy, need_dx or layer is not runs[0], size)
        return dy

    backward.__doc__ = Layer.backward.__doc__

    def _split(self):
        """Runs of fused layers as Sequentials, and the layers between them; kept until the layers change."""
        if self._runs is None or self._runs[0] != self.layers:
            runs, run = [], []
            for layer in [*self.layers, None]:
                if layer is not None and layer.fused:
                    run.append(layer)
                    continue
                if run:
                    runs.append(Sequential(*run))
                    runs[-1].training = False       # so that its mode is that of its layers
                if layer is not None:
                    runs.append(layer)
                run = []
            self._runs = list(self.layers), runs
        return self._runs[1]
