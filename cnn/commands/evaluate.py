"""Measure a saved model: accuracy, loss, precision, recall and F1 of each class, confusion matrix."""
import argparse

from cnn import data, evaluation
from cnn.commands import plain_warnings, running


def parser(prog=None):
    p = argparse.ArgumentParser(prog=prog, description=__doc__)
    p.add_argument("model", metavar="RUN_OR_MODEL", help="folder of a run, or model.safetensors")
    p.add_argument("--dataset", metavar="NAME|PATH", help=f"{', '.join(data.NAMES)}, or the path of a folder or .npz "
                   "file; default: what it was trained on")
    p.add_argument("--data-dir", metavar="DIR", help="where to look for the data set first")
    p.add_argument("--split", choices=evaluation.SPLITS, default="test", help="default: %(default)s")
    p.add_argument("--json", metavar="FILE", help="write the figures to a file too")
    p.add_argument("--plot", metavar="FILE", help="write the confusion matrix as PNG (needs pip install 'cnn[plot]')")
    p.add_argument("--threads", type=int, metavar="N", help="default: all cores this process may use")
    return p


def main(arguments=None, prog=None):
    p = parser(prog)
    given = p.parse_args(arguments)
    with running(p, given.threads), plain_warnings():
        evaluation.measure(given.model, given.dataset, given.data_dir, given.split, given.json, given.plot)
