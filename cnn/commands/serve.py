"""Serve a saved model: a page to drop pictures on, and POST /predict, which answers a picture with JSON.

Only programs on this machine can reach the server, unless you give --host. It has no password and no TLS. Ctrl-C stops
it.
"""
import signal

from cnn import prediction, streams
from cnn.commands import THREADS, Parser, command, path, running
from cnn.prediction import server


def parser(prog=None):
    p = Parser(prog=prog, description=__doc__)
    p.add_argument("model", type=path, metavar="RUN|MODEL", help="folder of a run, or a model file")
    p.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on; 0.0.0.0 lets "
                   "other machines in; default: %(default)s, this machine only")
    p.add_argument("--port", type=int, default=8000, metavar="N", help="port to listen on; 0 takes a free one; "
                   "default: %(default)s")
    p.add_argument("--name", action="append", default=[], metavar="NAME", help="host name that clients may use, "
                   "besides localhost and addresses; may be repeated")
    p.add_argument("--max-megabytes", type=int, default=server.MAX_MEGABYTES, metavar="N", help="largest "
                   "upload, in MiB; default: %(default)s")
    p.add_argument("--invert", action="store_true", help="invert the pictures: for dark digits on light paper")
    p.add_argument("--quiet", action="store_true", help="do not print a line per request")
    p.add_argument("--threads", **THREADS)
    return p


@command
def main(arguments=None, prog=None):
    p = parser(prog)
    given = p.parse_args(arguments)
    with running(p, given.threads):
        say = (lambda text: None) if given.quiet else streams.say
        serving = server.Server(prediction.load(given.model, given.invert), given.host, given.port,
                                max_bytes=given.max_megabytes * 2**20, names=given.name, say=say)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)     # as Ctrl-C
        try:
            streams.say(f"serving {given.model} at {serving.url} (Ctrl-C ends it)")
            serving.serve_forever()
        except KeyboardInterrupt:
            streams.say("stopped")
        finally:
            serving.close()
            signal.signal(signal.SIGTERM, before)
