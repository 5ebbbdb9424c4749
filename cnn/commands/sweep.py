"""Train many times with settings that Optuna draws, and find the best.

A SWEEP.toml says what is drawn and what all runs share:

    trials = 16
    monitor = "val_accuracy"
    [settings]
    dataset = "mnist-sample"
    epochs = 10
    [ranges]
    lr = {low = 0.005, high = 0.5, log = true}
    batch_size = {choices = [32, 64, 128]}

Every trial is a run like any other. After a break, the same command goes on. See docs/sweeps.md.
"""
from argparse import RawDescriptionHelpFormatter

from cnn.commands import THREADS, Parser, command, path, running
from cnn.runs import sweep
from cnn.streams import say


@command
def main(arguments=None, prog=None):
    p = Parser(prog=prog, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    p.add_argument("sweep", type=path, metavar="SWEEP.toml", help="what to draw")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="trials at a time, each a process with its share "
                   "of the cores; default: %(default)s")
    p.add_argument("--out", type=path, metavar="DIR", help="folder of the sweep; default: sweeps/<name of the file>")
    p.add_argument("--threads", **{**THREADS, "help": "number of threads of each trial; default: the cores that this "
                                   "process may use, divided by the jobs"})
    p.add_argument("--quiet", action="store_true", help="print nothing")
    given = p.parse_args(arguments)
    with running(p, given.threads):
        found = sweep.work_through(given.sweep, given.out, given.jobs, given.threads, given.quiet)
        if not given.quiet:
            folder = given.out or sweep.default_folder(given.sweep)
            say("no trial is complete" if found is None else
                f"best: trial {found['number']}, {sweep.page.said(found, sweep.read(given.sweep).monitor)}, in "
                f"{folder}/trial-{found['number']:04d}")
            say(f"wrote {folder}/sweep.html")
