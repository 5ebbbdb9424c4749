"""Graphs: nodes in order, each an operation that makes a value of others."""
from cnn import shapes


class Node:
    """An operation with the values that it reads and the one that it makes.

    module: the name of the module that asked for it, "" for the model itself. fused: names of all modules whose work
    it does, where passes have joined several.
    """

    __slots__ = ("inputs", "modules", "operation", "output")

    def __init__(self, operation, inputs, output, modules=("",)):
        self.operation, self.inputs, self.output, self.modules = operation, tuple(inputs), output, tuple(modules)

    @property
    def outputs(self):
        return (self.output,)

    def learns(self):
        return self.operation.learns()


class Graph:
    """What a module does with its inputs: a list of nodes, each after those that it reads.

    inputs, outputs: lists of Values. structure: how the outputs are put together again, see `cnn.graph.trace.pack`.
    names, modules: names of parameters and modules, by id. calls: (module, inputs, result, first node, one past the
    last) of each call inside, in the order in which they ended, where tracing was asked for them; they refer to
    modules, the rest of a graph to none but layers in NumPy. shares: of a loss, what its last inputs are, see
    cnn.graph.means.
    """

    def __init__(self, title="", names=None, modules=None):
        self.title, self.names, self.modules = title, names or {}, modules or {}
        self.inputs, self.nodes, self.outputs, self.structure, self.calls = [], [], [], None, None
        self.shares = ()
        self.in_place = []      # (who, value, number of the next node) of what PyTorch does in place
        self.scope = []         # names of the modules that are being called, while it is traced

    def like(self, nodes):
        """A graph with the same inputs and outputs, and other nodes."""
        other = Graph(self.title, self.names, self.modules)
        other.inputs, other.outputs, other.structure = self.inputs, self.outputs, self.structure
        other.shares = self.shares
        other.nodes = list(nodes)
        return other

    def readers(self):
        """Of each value that is read, by id, the nodes that do, once for each time."""
        result = {}
        for node in self.nodes:
            for value in node.inputs:
                result.setdefault(id(value), []).append(node)
        return result

    def macs(self):
        """Multiply-adds of one image of each node, a list."""
        return [node.operation.macs(*(v.image for v in node.inputs)) for node in self.nodes]

    def __len__(self):
        return len(self.nodes)

    def __iter__(self):
        return iter(self.nodes)

    HEADER = ("value", "shape", "operation", "reads", "parameters", "module")

    def cells(self):
        """The graph as texts: one tuple for each value, below HEADER."""
        names = {}
        table = []
        for value in self.inputs:
            names[id(value)] = f"%{len(names)}"
            table.append((names[id(value)], shapes.times(value.image), "input", "", "", ""))
        for node in self.nodes:
            names[id(node.output)] = f"%{len(names)}"
            operation = node.operation
            shown = ", ".join(f"{name}={value}" for name, value in operation.attributes().items())
            words = " + ".join([f"{operation.name}({shown})" if shown else operation.name, *operation.fused])
            own = [self.names.get(id(p), name) for name, p in operation.parameters.items()]
            table.append((names[id(node.output)], shapes.times(node.output.image), words,
                          " ".join(names[id(v)] for v in node.inputs), " ".join(own),
                          " ".join(dict.fromkeys(filter(None, node.modules)))))
        return table, [names[id(v)] for v in self.outputs]

    def __str__(self):
        cells, outputs = self.cells()
        lines = [self.HEADER, *cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                 for line in lines]
        return "\n".join([*([self.title] if self.title else []), texts[0], "-" * sum(widths, 2 * len(widths) - 2),
                          *texts[1:], f"output: {', '.join(outputs)}"])

    __repr__ = __str__
