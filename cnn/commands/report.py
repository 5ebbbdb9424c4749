"""Make pictures of a run, and one HTML page (report.html) that holds them and opens without a network."""
from cnn import streams
from cnn.commands import Parser, command, path, running
from cnn.reports import page as report


def parser(prog=None):
    p = Parser(prog=prog, description=__doc__)
    p.add_argument("run", type=path, metavar="RUN", help="folder of a run; needs pip install 'cnn[plot]'")
    p.add_argument("--data-dir", type=path, metavar="DIR", help="where to look for the data set first")
    p.add_argument("--threads", type=int, metavar="N", help="default: all cores this process may use")
    return p


@command
def main(arguments=None, prog=None):
    p = parser(prog)
    given = p.parse_args(arguments)
    with running(p, given.threads):
        streams.say(f"wrote {report.write(given.run, given.data_dir)}")
