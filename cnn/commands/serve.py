"""Serve a saved model: a page to drop pictures on, and POST /predict, which answers a picture with JSON.

Only this machine can reach it unless --host says otherwise. There is no password and no TLS. Ctrl-C ends it.
"""
import signal

from cnn import prediction, streams
from cnn.commands import Parser, command, path, running
from cnn.prediction import server


def parser(prog=None):
    p = Parser(prog=prog, description=__doc__)
    p.add_argument("model", type=path, metavar="RUN_OR_MODEL", help="folder of a run, or model.safetensors")
    p.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; 0.0.0.0 lets other "
                   "machines in; default: %(default)s, this machine only")
    p.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one; default: %(default)s")
    p.add_argument("--name", action="append", default=[], metavar="NAME", help="a name by which clients may reach the "
                   "server, besides localhost and addresses; may be repeated")
    p.add_argument("--max-megabytes", type=int, default=server.MAX_MEGABYTES, metavar="N", help="of an upload; "
                   "default: %(default)s")
    p.add_argument("--invert", action="store_true", help="for dark digits on light paper")
    p.add_argument("--quiet", action="store_true", help="no line for each request")
    p.add_argument("--threads", type=int, metavar="N", help="default: all cores this process may use")
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
