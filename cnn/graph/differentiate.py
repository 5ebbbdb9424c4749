"""Differentiation: nodes in reverse, whatever runs them.

By the chain rule the gradient of a value that several nodes read is the sum of what comes back from each (Griewank and
Walther 2008, "Evaluating Derivatives", chapter 3).
"""


def differentiate(nodes, given, wanted, pull, add):
    """Carry gradients back through nodes, which have `inputs`, `outputs` and `learns()`.

    given: list of (value, gradient) of the outputs. wanted: the values whose gradients are asked for.
    `pull(node, dys, wants, held)` returns the gradients of the node's inputs, None where `wants` says so, from those of
    its outputs, of which some may be None; held: a list of the gradients that are still to be used. `add(a, b, held)`
    is a sum of two. A node is passed over where nothing that it reads needs a gradient and it has nothing to
    learn. Returns the gradients of `wanted`, None where there is none.
    """
    needed = {id(value) for value in wanted}
    active = []
    for node in nodes:
        if node.learns() or any(id(value) in needed for value in node.inputs):
            needed.update(id(value) for value in node.outputs)
            active.append(node)
    held = {}

    def collect(gradients):
        while gradients:
            value, gradient = gradients.pop(0)
            before = held.pop(id(value), None)
            if before is not None:      # what has not been collected is still to be used, too
                gradient = add(before, gradient, [*held.values(), *(other for _, other in gradients)])
            held[id(value)] = gradient

    collect([(value, gradient) for value, gradient in given if id(value) in needed])
    for node in reversed(active):
        dys = [held.pop(id(value), None) for value in node.outputs]
        if all(dy is None for dy in dys):
            continue
        wants = tuple(id(value) in needed for value in node.inputs)
        made = zip(node.inputs, pull(node, dys, wants, list(held.values())), strict=True)
        collect([(value, gradient) for value, gradient in made if gradient is not None])
    return [held.get(id(value)) for value in wanted]
