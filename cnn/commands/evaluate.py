"""Measure a saved model: accuracy, loss, precision, recall and F1 of each class, confusion matrix."""
from cnn import data
from cnn.commands import Parser, command, path, running
from cnn.reports import evaluation


def parser(prog=None):
    p = Parser(prog=prog, description=__doc__)
    p.add_argument("model", type=path, metavar="RUN_OR_MODEL", help="folder of a run, or model.safetensors")
    p.add_argument("--dataset", type=path, metavar="NAME|PATH", help=f"{', '.join(data.NAMES)}, or the path of a "
                   "folder or .npz file; default: what it was trained on")
    p.add_argument("--data-dir", type=path, metavar="DIR", help="where to look for the data set first")
    p.add_argument("--split", choices=evaluation.SPLITS, default="test", help="default: %(default)s")
    p.add_argument("--json", type=path, metavar="FILE", help="write the figures to a file too")
    p.add_argument("--plot", type=path, metavar="FILE", help="write the confusion matrix as PNG (needs pip install "
                   "'cnn[plot]')")
    p.add_argument("--threads", type=int, metavar="N", help="default: all cores this process may use")
    return p


@command
def main(arguments=None, prog=None):
    p = parser(prog)
    given = p.parse_args(arguments)
    with running(p, given.threads):
        evaluation.measure(given.model, given.dataset, given.data_dir, given.split, given.json, given.plot)
