"""Classify pictures (PNG, JPEG, ...), folders of pictures or the images of an IDX file with a saved model.

Files that cannot be read are named, and the exit code is then 1.
"""
from cnn import streams
from cnn.commands import THREADS, Parser, command, path, running
from cnn.prediction import files
from cnn.reports import explained


def parser(prog=None):
    p = Parser(prog=prog, description=__doc__)
    p.add_argument("model", type=path, metavar="RUN|MODEL", help="folder of a run, or a model file")
    p.add_argument("images", type=path, metavar="IMAGE", nargs="+", help="picture, folder of pictures, or IDX file")
    p.add_argument("--top", type=int, default=1, metavar="K", help="print the K most probable classes; default: 1")
    p.add_argument("--invert", action="store_true", help="invert the pictures: for dark digits on light paper")
    p.add_argument("--json", action="store_true", help="print one JSON list instead of lines")
    p.add_argument("--explain", type=path, metavar="FILE.png", help="write a picture of the images with what speaks "
                   "for the predicted class, by Grad-CAM and occlusion (needs Matplotlib: pip install 'cnn[plot]')")
    p.add_argument("--threads", **THREADS)
    return p


@command
def main(arguments=None, prog=None):
    p = parser(prog)
    given = p.parse_args(arguments)

    def out(text):
        if error := streams.say(text):      # there is no use in going on
            raise error if isinstance(error, BrokenPipeError) else OSError(f"could not print: {error}")

    with running(p, given.threads):
        if given.explain is not None:
            explained.check(given.explain)
        failed = files.predict(given.model, given.images, given.top, given.invert, given.json, out,
                               complain=lambda text: streams.complain(f"{p.prog}: {text}"))
        if given.explain is not None:
            left_out = explained.write(given.explain, given.model, given.images, given.invert)
            words = f", the first {explained.MOST} images" if left_out else ""
            (streams.complain if given.json else streams.say)(f"wrote {given.explain}{words}")
    return 1 if failed else 0
