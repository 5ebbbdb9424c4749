"""The graph: what people write, before anything is known of kernels. Values and nodes, tracing, passes, programs."""
from cnn.graph.graph import Graph, Node
from cnn.graph.trace import apply, no_grad, trace
from cnn.graph.value import Value

__all__ = ["Graph", "Node", "Value", "apply", "no_grad", "trace"]
