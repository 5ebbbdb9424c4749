"""What is timed: a training step of ours and of PyTorch's, whose gradients must be the same."""
import itertools
import sys
from pathlib import Path

import numpy as np

from cnn import data, models, optim
from cnn.export import to_torch
from cnn.layers.losses import CrossEntropyLoss
from cnn.training.trainer import Trainer


def image_shape(net):
    """Of one image."""
    return (1, 28, 28) if net == "lenet5" else (3, 32, 32)


def make(net, **more):
    """The model of a net's name, which widths may follow, as in "mobilenet_small:32,64,128"."""
    name, _, widths = net.partition(":")
    return models.MODELS[name](**models.widths("bench", name, widths), **more)


def our_step(net, batch):
    """A function that makes n steps on random images, and the trainer."""
    rng = np.random.default_rng(0)
    # an epoch, half a second at most, is long enough for what happens once in it not to count
    count = batch * max(2, min(12_800_000 // int(np.prod(image_shape(net))), 100_000_000_000 // macs(net)) // batch)
    images = rng.integers(0, 256, (count, *image_shape(net)), dtype=np.uint8)
    dataset = data.Dataset(images, rng.integers(0, 10, count), classes=[str(i) for i in range(10)],
                           mean=[0.5] * image_shape(net)[0], std=[0.25] * image_shape(net)[0])
    model = make(net)
    trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.01, momentum=0.9), progress=False)
    loader = data.DataLoader(dataset, batch, shuffle=True)

    def steps(n):
        trainer.fit(loader, max(1, n // len(loader)))
        return max(1, n // len(loader)) * len(loader)
    return steps, trainer


def macs(net):
    """Multiply-adds of one image in a training step (forward, dx and dw; no dx of the first layer)."""
    counts = [count for count in make(net).graph(image_shape(net)).macs() if count]
    return 3 * sum(counts) - counts[0]


def has_bfloat16():
    """Whether this processor has instructions for bfloat16."""
    try:
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    except OSError:
        return False


def torch_step(net, batch, channels_last, bfloat16=False):
    """A function that makes n steps on random images that lie ready as floats in memory. bfloat16: under autocast."""
    import torch
    torch.manual_seed(0)
    ours = make(net)
    model, images = to_torch(ours, image_shape(net)), list(torch.randn(8, batch, *image_shape(net)))
    labels = torch.randint(0, 10, (8, batch))
    turns = itertools.cycle(range(8))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = [x.to(memory_format=torch.channels_last) for x in images]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def steps(n):
        for i in itertools.islice(turns, n):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = torch.nn.functional.cross_entropy(model(images[i]), labels[i])
            loss.backward()
            optimizer.step()
        return n
    return steps


def gradient_difference(net, batch, dtype):
    """Norm of the difference of our gradients of one step and PyTorch's, relative to theirs."""
    import torch
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    x = rng.normal(size=(batch, *image_shape(net))).astype(dtype)
    labels = rng.integers(0, 10, batch)
    ours, loss = make(net, dtype=dtype), CrossEntropyLoss()
    theirs = to_torch(ours, image_shape(net))
    loss(ours(x), labels)
    ours.backward(loss.backward(), need_dx=False)
    torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(labels)).backward()
    pairs = [(p.grad.astype(np.float64), q.grad.numpy())
             for p, q in zip(ours.parameters(), theirs.parameters(), strict=True) if p.requires_grad]
    return float(np.sqrt(sum(((p - q)**2).sum() for p, q in pairs) / sum((q**2).sum() for _, q in pairs)))


def check_gradients(net, batch):
    """Stop unless both compute the same: to rounding in float64, and nearly so in float32, where now and
    then two values are so close that another one of them wins a pooling window."""
    result = {}
    for dtype, most in ((np.float64, 1e-10), (np.float32, 5e-2)):
        difference = result[dtype.__name__] = gradient_difference(net, batch, dtype)
        if not difference < most:
            sys.exit(f"bench: the gradients differ from PyTorch's by {difference:.1e} in {dtype.__name__}: there is "
                     f"nothing to compare")
    return result
