"""Show which kernels, threads and versions are in use."""
from cnn import runtime
from cnn.commands import Parser, command, running


@command
def main(arguments=None, prog=None):
    p = Parser(prog=prog, description=__doc__)
    p.parse_args(arguments)
    with running(p, None):
        runtime.show_config()
