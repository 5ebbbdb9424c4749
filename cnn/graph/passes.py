"""Passes: graph in, graph out."""
from cnn.graph.once import once
from cnn.graph.value import Value
from cnn.ops import arithmetic, conv, linear, norm, pointwise, pool, reshaping
from cnn.ops.conv import transposed


def prune(graph):
    """Without the nodes on which no output depends, unless they have effects."""
    needed, kept = {id(value) for value in graph.outputs}, []
    for node in reversed(graph.nodes):
        if id(node.output) in needed or node.operation.effects:
            needed.update(id(value) for value in node.inputs)
            kept.append(node)
    return graph.like(reversed(kept))


def _with_relu(operation, relu):
    return None if operation.relu or getattr(operation, "pool", None) else operation.joined(relu, relu=True)


def _pooled_relu(relu, following):
    return None if following.relu else following.changed(relu=True, fused=(*following.fused,), name="relu + max_pool2d")


def _with_pool(operation, following):
    if operation.pool is not None or operation.relu:
        return None
    return operation.joined(following, pool=following, relu=following.relu)


# What may be done in one: (operation, the one that reads it): a function of both that returns the one for both, or
# None. Those of an earlier row come first. A ReLU costs nothing in a pool, and less in a pool than anywhere else.
FUSED = [
    {(pointwise.ReLU, pool.MaxPool2d): _pooled_relu},
    {(conv.Conv2d, pool.MaxPool2d): _with_pool},
    {(kind, pointwise.ReLU): _with_relu for kind in (
        conv.Conv2d, transposed.ConvTranspose2d, linear.Linear, norm.BatchNorm2d, arithmetic.Add)},
]


def _folded(convolution, following):
    """A normalisation by constants is a part of the weights of the convolution before it."""
    if following.training or following.relu or convolution.relu or convolution.pool or convolution.norm:
        return None
    return convolution.joined(following, norm=following)


FOLDED = [{(conv.Conv2d, norm.BatchNorm2d): _folded}]


def fuse(graph, tables=FUSED):
    """With neighbours joined where a table says how, only one node reads what is between them, and it is no output."""
    for table in tables:
        readers, outputs = graph.readers(), {id(value) for value in graph.outputs}
        made, nodes = {}, []    # the node in `nodes` that makes a value, by its id
        for node in graph.nodes:
            before = made.get(id(node.inputs[0])) if len(node.inputs) == 1 else None
            join = before and table.get((type(before.operation), type(node.operation)))
            if join and len(readers[id(node.inputs[0])]) == 1 and id(node.inputs[0]) not in outputs:
                operation = join(before.operation, node.operation)
                if operation is not None:
                    joined = type(node)(operation, before.inputs, node.output, (*before.modules, *node.modules))
                    nodes[nodes.index(before)] = joined
                    made[id(node.output)] = joined
                    continue
            nodes.append(node)
            made[id(node.output)] = node
        graph = graph.like(nodes)
    return graph


def without_detached(graph):
    """With what is detached read itself: where there is no backward pass."""
    outputs, same, nodes = {id(value) for value in graph.outputs}, {}, []
    for node in graph.nodes:
        inputs = [same.get(id(value), value) for value in node.inputs]
        if isinstance(node.operation, reshaping.Detach) and id(node.output) not in outputs:
            same[id(node.output)] = inputs[0]
        else:
            nodes.append(type(node)(node.operation, inputs, node.output, node.modules))
    return graph.like(nodes)


# what computes each element from the one at its place
ELEMENTWISE = (pointwise.ReLU, pointwise.Activation, pointwise.Map, arithmetic.Affine, arithmetic.Reciprocal)


def with_late_reshapes(graph):
    """With reshapes behind the functions of each element that read them, and without those that undo each other: what
    they stood between can be fused then."""
    outputs, made, same, nodes = {id(value) for value in graph.outputs}, {}, {}, []
    for node in graph.nodes:
        inputs = [same.get(id(value), value) for value in node.inputs]
        before = made.get(id(inputs[0])) if len(inputs) == 1 else None
        if before is not None and type(before.operation) is reshaping.Reshape:
            source, kind = before.inputs[0], type(node.operation)
            if kind is reshaping.Reshape:
                if source.image == node.output.image and id(node.output) not in outputs:
                    same[id(node.output)] = source
                    continue
                inputs = [source]
            elif kind in ELEMENTWISE and len(source.image) != 2:        # (H, W) is one channel, mostly empty lanes
                moved = Value(None, source.image, source.dtype)
                nodes.append(type(node)(node.operation, inputs=[source], output=moved, modules=node.modules))
                made[id(moved)] = nodes[-1]
                node = type(node)(before.operation, [moved], node.output, before.modules)
                inputs = [moved]
        node = type(node)(node.operation, inputs, node.output, node.modules)
        nodes.append(node)
        made[id(node.output)] = node
    return prune(graph.like(nodes))


def with_summands(graph):
    """With additions joined to a convolution that makes one of their inputs, which nothing else reads: for programs
    that go by channels."""
    readers, outputs = graph.readers(), {id(value) for value in graph.outputs}
    made, nodes = {id(node.output): node for node in graph.nodes}, []
    for node in graph.nodes:
        nodes.append(node)
        if type(node.operation) is not arithmetic.Add:
            continue
        for value, other in (node.inputs, node.inputs[::-1]):
            before = made.get(id(value))
            if (before in nodes and type(before.operation) is conv.Conv2d and len(readers[id(value)]) == 1
                    and id(value) not in outputs and value is not other and before.operation.takes_summand()):
                operation = before.operation.joined(node.operation, relu=node.operation.relu, summand=True)
                joined = type(node)(operation, (*before.inputs, other), node.output, (*before.modules, *node.modules))
                nodes.remove(before)
                nodes[-1] = made[id(node.output)] = joined
                break
    return graph.like(nodes)


def with_deferred_norms(graph, program):
    """With batch norms marked as deferred that only convolutions read which can normalise what they read, in this
    program: the result is kept nowhere then."""
    readers, outputs, nodes = graph.readers(), {id(value) for value in graph.outputs}, []
    for node in graph.nodes:
        value = node.output
        if type(node.operation) is norm.BatchNorm2d and id(value) not in outputs and all(
                reader.operation.normalises(program, value.image) for reader in readers.get(id(value), ())):
            node = type(node)(node.operation.changed(deferred=True), node.inputs, value, node.modules)
        nodes.append(node)
    return graph.like(nodes)


def optimised(graph, gradients):
    """The graph as it is compiled. gradients: whether there is to be a backward pass."""
    graph = once(prune(graph))
    graph = with_late_reshapes(graph if gradients else without_detached(graph))
    if not gradients:
        graph = fuse(graph, FOLDED)
    return fuse(graph)
