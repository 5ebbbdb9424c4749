"""Plot a run, and write report.html, one page with all figures that opens without a network."""
from cnn import streams
from cnn.commands import THREADS, Parser, command, path, running
from cnn.reports import page as report


def parser(prog=None):
    p = Parser(prog=prog, description=__doc__)
    p.add_argument("run", type=path, metavar="RUN", help="folder of a run (needs Matplotlib: pip install "
                   "'cnn[plot]')")
    p.add_argument("--data-dir", type=path, metavar="DIR", help="folder to search for the data set first")
    p.add_argument("--threads", **THREADS)
    return p


@command
def main(arguments=None, prog=None):
    p = parser(prog)
    given = p.parse_args(arguments)
    with running(p, given.threads):
        streams.say(f"wrote {report.write(given.run, given.data_dir)}")
