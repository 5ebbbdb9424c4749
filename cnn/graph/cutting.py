"""Cutting a graph in two at one of its values."""
from cnn.graph.once import once
from cnn.graph.passes import prune


def cut(graph, value):
    """(body, tail): what comes before a value, and what depends on it.

    The tail's first input is the value; further ones are what else it reads of the body, such as the other branch of a
    residual connection. The body's outputs are the tail's inputs. Together they compute the outputs of the graph.
    """
    graph = once(prune(graph))
    depends, before, after = {id(value)}, [], []
    for node in graph.nodes:
        late = any(id(read) in depends for read in node.inputs)
        (after if late else before).append(node)
        if late:
            depends.add(id(node.output))
    made = {id(node.output) for node in after}
    crossing = {id(value): value}
    for read in (*(read for node in after for read in node.inputs), *graph.outputs):
        if id(read) not in made:
            crossing.setdefault(id(read), read)
    tail, body = graph.like(after), graph.like(before)
    tail.inputs = body.outputs = list(crossing.values())
    body.structure = len(body.outputs)
    return body, tail
