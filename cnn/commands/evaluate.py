"""Measure a saved model: accuracy, loss, precision, recall and F1 of each class, confusion matrix."""
from cnn import data
from cnn.commands import THREADS, Parser, command, path, running
from cnn.reports import evaluation


def parser(prog=None):
    p = Parser(prog=prog, description=__doc__)
    p.add_argument("model", type=path, metavar="RUN|MODEL", help="folder of a run, or a model file")
    p.add_argument("--dataset", type=path, metavar="NAME|PATH", help=f"data set to measure on: "
                   f"{', '.join(data.NAMES)}, or a folder or .npz file of your own; default: the one it was trained on")
    p.add_argument("--data-dir", type=path, metavar="DIR", help="folder to search for the data set first")
    p.add_argument("--split", choices=evaluation.SPLITS, default="test", help="part of the data set to measure on; "
                   "default: %(default)s")
    p.add_argument("--json", type=path, metavar="FILE", help="also write the measures to this file")
    p.add_argument("--plot", type=path, metavar="FILE", help="also write the confusion matrix as a PNG file (pip "
                   "install 'cnn[plot]')")
    p.add_argument("--threads", **THREADS)
    return p


@command
def main(arguments=None, prog=None):
    p = parser(prog)
    given = p.parse_args(arguments)
    with running(p, given.threads):
        evaluation.measure(given.model, given.dataset, given.data_dir, given.split, given.json, given.plot)
