"""Make pictures of a run, and one HTML page (report.html) that holds them and opens without a network."""
import argparse

from cnn import report
from cnn.commands import plain_warnings, running


def parser(prog=None):
    p = argparse.ArgumentParser(prog=prog, description=__doc__)
    p.add_argument("run", metavar="RUN", help="folder of a run; needs pip install 'cnn[plot]'")
    p.add_argument("--data-dir", metavar="DIR", help="where to look for the data set first")
    p.add_argument("--threads", type=int, metavar="N", help="default: all cores this process may use")
    return p


def main(arguments=None, prog=None):
    p = parser(prog)
    given = p.parse_args(arguments)
    with running(p, given.threads):
        with plain_warnings():
            path = report.write(given.run, given.data_dir)
        print(f"wrote {path}")
