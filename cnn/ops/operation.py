"""What every operation has in common."""
import copy

from cnn import shapes


class Operation:
    """One operation of a graph, with its attributes and parameters: the one home of its shape rule and of what it asks
    of the kernels.

    A subclass defines `shape(*shapes)`, which returns the shape of one image of the result for those of the inputs, (C,
    H, W) or (features,), and refuses what does not fit; and `emit(program, *inputs)`, which adds operations to a
    program and returns the tensor that they fill and a function for the backward pass: `backward(dy, wanted)` adds its
    operations and returns dx, or None where it is not wanted. With several inputs `wanted` is a tuple of bools, and
    so is what it returns, of tensors or None.

    name: what it is called in print. twin: the function of cnn.reference that computes the same. owner: who speaks in
    an error. parameters: the Parameters that it reads, by name. effects: whether it must be run even where nobody
    reads its result. couples: whether what it makes of an image depends on the others in the batch. fused: names of the
    operations that it has taken over.
    """

    name = twin = ""
    effects = couples = False
    fused = sources = ()

    def __init__(self, owner=None):
        self.owner = owner or self.name
        self.parameters = {}

    def shape(self, *inputs):
        raise NotImplementedError

    def emit(self, program, *inputs):
        raise NotImplementedError

    def goes_by_channels(self, *inputs):
        """Whether `emit` can write into a program that goes by channels, for inputs of these shapes."""
        return True

    def normalises(self, program, x):
        """Whether, in this program, it can read a batch norm's input instead of its output x (a shape)."""
        return False

    def macs(self, *inputs):
        """Multiply-adds of one image (int) for inputs of these shapes, by the plain sum, padding included."""
        return 0

    def attributes(self):
        """What is to be shown of it: a dict of texts by name."""
        return {}

    def changed(self, **attributes):
        """A copy with other attributes."""
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    def joined(self, following, **attributes):
        """A copy that does the work of the operation after it, too."""
        return self.changed(fused=(*self.fused, following.name, *following.fused), **attributes)

    def learns(self):
        """Whether it has a parameter whose gradient is wanted."""
        return any(p.requires_grad for p in self.parameters.values())


def spatial(owner, shape, what="x"):
    """Refuse vectors where images are wanted; returns the shape."""
    if len(shape) != 3:
        hint = " (an array of one image is x[np.newaxis])" if len(shape) == 2 else ""
        raise ValueError(f"{owner}: {what} must have shape (N, C, H, W), got {shapes.batch(shape)}{hint}")
    return shape


def laid(image):
    """How a value of this image shape lies in a tensor: arguments of `Program.tensor`. A vector has its elements as
    channels, a single number is a vector of one, a plane (H, W) has one channel."""
    if len(image) < 2:
        return {"channels": image[0] if image else 1, "height": 1, "width": 1, "flat": True}
    channels, height, width = (1,) * (3 - len(image)) + tuple(image)
    return {"channels": channels, "height": height, "width": width, "flat": False}
