"""cnn serve, by real requests on a free port."""

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cnn
from cnn.prediction import server as serving
from cnn.prediction.server import Server

Image = pytest.importorskip("PIL.Image")

ABOUT = {"model": "lenet5", "arguments": {"in_channels": 1, "num_classes": 3, "image_size": 28},
         "classes": ["ant", "<b>bee</b>", "čat"], "mean": [0.3], "std": [0.4], "dataset": "/home/me/secret/animals"}
PICTURE = io.BytesIO()
Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(PICTURE, "PNG")
PICTURE = PICTURE.getvalue()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    cnn.save_model(path, cnn.models.lenet5(**ABOUT["arguments"], seed=1), ABOUT)
    return path


@contextlib.contextmanager
def served(saved, **options):
    """A server in a thread; its requests are in `server.said`."""
    said = []
    server = Server(cnn.load(saved), port=0, say=said.append, **options)
    server.said = said
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.close()


@pytest.fixture(scope="module")
def server(saved):
    with served(saved, max_bytes=100_000, seconds=5) as server:
        yield server


def ask(server, method, path, body=None, **headers):
    """(status, what the JSON says, headers) of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    kind = answer.headers["Content-Type"]
    assert kind == "application/json" or answer.status == 200 and path == "/"
    return answer.status, json.loads(content) if kind == "application/json" and content else content, answer.headers


def raw(server, content, close=False):
    """The bytes that a server answers to bytes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(content)
        if close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def right(saved, top=3):
    """What is to be answered, by the model itself."""
    model, _ = cnn.load_model(saved)
    grey = Image.open(io.BytesIO(PICTURE)).convert("L").resize((28, 28), Image.Resampling.BILINEAR)
    scores = model(((np.asarray(grey, np.float32) / 255 - 0.3) / 0.4).astype(np.float32)[None, None])[0].astype(float)
    p = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    return [(ABOUT["classes"][k], p[k]) for k in np.argsort(-p)][:top]


def agrees(found, wanted):
    assert [each["class"] for each in found["top"]] == [name for name, _ in wanted]
    np.testing.assert_allclose([each["probability"] for each in found["top"]], [p for _, p in wanted], rtol=1e-4)
    assert (found["label"], found["probability"]) == (found["top"][0]["class"], found["top"][0]["probability"])


def form(content, boundary=b"xyz", name=b'name="file"; filename="a.png"'):
    note = b'--%b\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n' % boundary
    head = b"--%b\r\nContent-Disposition: form-data; %b\r\nContent-Type: image/png\r\n\r\n" % (boundary, name)
    return b"%b%b%b\r\n--%b--\r\n" % (note, head, content, boundary)


# ------------------------------------------------------------------------------------------ good requests


def test_a_picture_as_the_body(server, saved):
    status, found, headers = ask(server, "POST", "/predict", PICTURE)
    assert status == 200
    agrees(found, right(saved))
    assert headers["X-Content-Type-Options"] == "nosniff" and "Access-Control-Allow-Origin" not in headers
    status, found, _ = ask(server, "POST", "/predict?top=1", PICTURE, Content_Type="image/png")
    agrees(found, right(saved, 1))


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=xyz", 'multipart/form-data; boundary="xyz"'])
def test_a_picture_in_a_form(server, saved, kind):
    status, found, _ = ask(server, "POST", "/predict", form(PICTURE), Content_Type=kind)
    assert status == 200
    agrees(found, right(saved))


def test_a_picture_that_looks_like_lines_in_a_form(server, saved):
    """A BMP of line ends and dashes comes through to the byte."""
    image = Image.fromarray(np.frombuffer(b"\r\n--\n\r" * 131, np.uint8)[:784].reshape(28, 28))
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    found = ask(server, "POST", "/predict", form(buffer.getvalue()), Content_Type="multipart/form-data; boundary=xyz")
    assert found[1]["probability"] == cnn.load(saved).predict(image).probability


def test_the_page(server):
    status, page, headers = ask(server, "GET", "/")
    text = page.decode()
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert not re.search(r"https?:|//[a-z]|@import|url\(|innerHTML", text)      # nothing from elsewhere, no markup
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text and 'type="file"' in text
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert ask(server, "HEAD", "/")[1] == b""


def test_health(server):
    status, found, _ = ask(server, "GET", "/health")
    assert status == 200 and found == {"status": "ok", "model": "lenet5", "dataset": "animals", "image": [1, 28, 28],
                                       "classes": ABOUT["classes"]}


def test_many_at_once(server, saved):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(server, "POST", "/predict", PICTURE), range(100)))
    assert [status for status, _, _ in answers] == [200] * 100
    for _, found, _ in answers:
        assert found == answers[0][1]
    agrees(answers[0][1], right(saved))


def test_each_request_is_a_line(server):
    server.said.clear()
    ask(server, "POST", "/predict", b"\x1b[2J")
    ask(server, "GET", "/nothing%1b[2J")
    assert len(server.said) == 2
    assert re.fullmatch(r"127.0.0.1 'POST /predict HTTP/1.1' 415 \d+ ms", server.said[0])
    assert re.fullmatch(r"127.0.0.1 'GET /nothing%1b\[2J HTTP/1.1' 404 \d+ ms", server.said[1])


# ------------------------------------------------------------------------------------------ bad requests


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "words"), [
    ("POST", "/predict", b"hello", {}, 415, "not a picture that can be read (it is none of PNG"),
    ("POST", "/predict", PICTURE[:-300], {}, 415, "not a picture that can be read"),
    ("POST", "/predict", b"", {}, 400, "the upload is empty"),
    ("POST", "/predict", b"x" * 100_001, {}, 413, "at most 100,000 bytes, got 100,001"),
    ("POST", "/predict", b"x" * 10_000_000, {}, 413, "at most 100,000 bytes, got 10,000,000"),
    ("POST", "/predict", PICTURE, {"Content_Type": "multipart/form-data"}, 400, "must name its boundary"),
    ("POST", "/predict", PICTURE, {"Content_Type": "multipart/form-data; boundary=no"}, 400, "is empty"),
    ("POST", "/predict", form(PICTURE, name=b'name="a"'), {"Content_Type": "multipart/form-data; boundary=xyz"}, 400,
     "is empty"),
    ("POST", "/predict", form(b"hello"), {"Content_Type": "multipart/form-data; boundary=xyz"}, 415, "not a picture"),
    ("POST", "/predict?top=0", PICTURE, {}, 400, "top must be an integer of at least 1, got '0'"),
    ("POST", "/predict?top=x", PICTURE, {}, 400, "top must be an integer of at least 1, got 'x'"),
    ("POST", "/predict", [PICTURE], {"Transfer_Encoding": "chunked"}, 411, "Content-Length is missing"),
    ("GET", "/predict", None, {}, 405, "/predict takes POST"),
    ("POST", "/", PICTURE, {}, 405, "/ takes GET or HEAD"),
    ("PUT", "/health", PICTURE, {}, 405, "/health takes GET or HEAD"),
    ("BREW", "/", None, {}, 405, "Unsupported method ('BREW')"),
    ("GET", "/etc/passwd", None, {}, 404, "no such page; the pages are /"),
    ("GET", "/../../etc/passwd", None, {}, 404, "no such page; the pages are /"),
    ("GET", "/", None, {"Host": "evil.example"}, 421, "does not answer for evil.example"),
    ("GET", "/", None, {"Host": "evil.example:80"}, 421, "does not answer for evil.example"),
    ("GET", "/", None, {"Host": "[::"}, 400, "the header Host is missing or cannot be read"),
    ("POST", "/predict", PICTURE, {"Origin": "http://evil.example"}, 403, "requests of other sites (http://evil.exam"),
    ("POST", "/predict", PICTURE, {"Origin": "http://localhost:1"}, 403, "requests of other sites"),
    ("POST", "/predict", PICTURE, {"Origin": "null"}, 403, "requests of other sites (null)"),
    ("POST", "/predict", PICTURE, {"Origin": "http://["}, 403, "requests of other sites"),
])
def test_what_is_refused(server, method, path, body, headers, status, words):
    found = ask(server, method, path, body, **headers)
    assert found[0] == status and set(found[1]) == {"error"} and words in found[1]["error"]
    assert "Traceback" not in found[1]["error"] and status != 405 or found[2]["Allow"] or method == "BREW"
    assert ask(server, "GET", "/health")[0] == 200


@pytest.mark.parametrize(("content", "status"), [
    (b"nonsense\r\n\r\n", b"400"), (b"GET / HTTP/9.9\r\n\r\n", b"505"), (b"GET / HTTP/1.1\r\n\r\n", b"400"),
    (b"GET http://[/ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
    (b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 70_000), b"414"),
    (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
    (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"400"),
    (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
    (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: x\r\n\r\nab", b"411"),
    (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n", b"413"),
    (b"POST /predict HTTP/1.1\r\nHost: localhost\r\n\r\n", b"411"),
])
def test_what_is_no_proper_request(server, content, status):
    found = raw(server, content)
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.split()[1] == status and set(json.loads(body)) == {"error"}


def test_a_client_that_ends_early(server):
    found = raw(server, b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc", close=True)
    assert b" 400 " in found and b"the upload ended after 3 of 100 bytes" in found


def test_expect_100(server, saved):
    """curl asks before it sends more than a megabyte."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(PICTURE))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(PICTURE)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        agrees(json.loads(answer.read()), right(saved))


def test_too_many_pixels(server, monkeypatch):
    monkeypatch.setattr("cnn.data.pictures.MOST_PIXELS", 1000)
    status, found, _ = ask(server, "POST", "/predict", PICTURE)
    assert status == 415 and "40x40 is more than 1,000 pixels" in found["error"]


def test_a_failure_of_ours_is_told_to_us_alone(saved, monkeypatch, capsys):
    with served(saved) as server:
        monkeypatch.setattr(server.predictor, "predict", lambda *_: 1 / 0)
        assert ask(server, "POST", "/predict", PICTURE)[:2] == (500, {"error": "the server failed to answer"})
    assert capsys.readouterr().err == "POST /predict: ZeroDivisionError: division by zero\n"


# ------------------------------------------------------------------------------------------ slow, and too many


@pytest.mark.thorough
def test_slow_clients_are_cut_off_and_hold_nobody_up(saved, monkeypatch):
    monkeypatch.setattr(serving, "_GRACE", 0.5)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with served(saved, seconds=3) as server:
        start = time.monotonic()

        def drip(content):
            """Send a byte now and then, as long as the server takes them; (what it answered, seconds)."""
            with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
                connection.settimeout(0.05)
                received = b""
                for i in range(600):
                    try:
                        connection.sendall(content if i == 0 else b"x")
                        chunk = connection.recv(65536)
                    except TimeoutError:
                        continue
                    except ConnectionError:
                        break
                    if not chunk:
                        break
                    received += chunk
                return received, time.monotonic() - start

        with ThreadPoolExecutor(10) as pool:
            slow = [pool.submit(drip, content) for content in [head] * 5 + [b"GET / HT"] * 5]
            time.sleep(0.2)
            assert ask(server, "POST", "/predict", PICTURE)[0] == 200
            assert not any(each.done() for each in slow)
            answers = [each.result() for each in slow]
        assert all(b" 408 " in answer and b"took more than 3 seconds" in answer for answer, _ in answers[:5])
        assert all(took < 20 for _, took in answers)
        assert ask(server, "GET", "/health")[0] == 200


def test_one_connection_more_than_there_may_be(saved, monkeypatch):
    monkeypatch.setattr(serving, "CONNECTIONS", 3)
    with served(saved) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
            end = time.monotonic() + 20
            while (answer := ask(server, "GET", "/health"))[0] != 503:     # until all three are accepted
                assert time.monotonic() < end
            status, found, headers = answer
            assert "too many requests" in found["error"] and headers["Retry-After"] == "1"
        end = time.monotonic() + 20
        while ask(server, "GET", "/health")[0] != 200:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_closing_lets_an_answer_be_finished(saved, monkeypatch):
    with served(saved) as server:
        begun, go_on = threading.Event(), threading.Event()
        predict = server.predictor.predict

        def slow(*arguments):
            begun.set()
            go_on.wait(20)
            return predict(*arguments)

        monkeypatch.setattr(server.predictor, "predict", slow)
        with ThreadPoolExecutor(2) as pool, socket.create_connection(("127.0.0.1", server.server_port)):
            answer = pool.submit(ask, server, "POST", "/predict", PICTURE)
            assert begun.wait(20)
            server.shutdown()
            closing = pool.submit(server.close, 20)
            time.sleep(0.2)
            assert not closing.done()
            go_on.set()
            assert answer.result()[0] == 200
            closing.result(timeout=10)      # the idle connection is not waited for
            with pytest.raises(OSError):
                ask(server, "GET", "/health")
        monkeypatch.setattr(server, "close", lambda: None)      # it is


# ------------------------------------------------------------------------------------------ who may ask


def test_names_of_its_own(saved):
    with served(saved, names=["Digits.example"]) as server:
        for host in ("digits.example", "DIGITS.example:8080", "localhost", "127.0.0.1", "[::1]:80", "192.168.0.7"):
            assert ask(server, "GET", "/health", Host=host)[0] == 200
            assert ask(server, "POST", "/predict", PICTURE, Host=host, Origin=f"https://{host}")[0] == 200
        # a proxy that puts its own name into Host
        assert ask(server, "POST", "/predict", PICTURE, Host="localhost", Origin="https://digits.example")[0] == 200
        assert ask(server, "GET", "/health", Host="example")[0] == 421


def test_only_this_machine_by_default(server):
    assert server.server_address[0] == "127.0.0.1" and server.url == f"http://127.0.0.1:{server.server_port}/"


def test_what_no_server_can_be_made_of(saved, server, tmp_path):
    predictor = cnn.load(saved)
    with pytest.raises(OSError, match=f"127.0.0.1, port {server.server_port}: Address already in use"):
        Server(predictor, port=server.server_port)
    with pytest.raises(ValueError, match="Server: port must be an integer from 0 to 65535, got 70000"):
        Server(predictor, port=70000)
    with pytest.raises(ValueError, match="Server: max_bytes must be an integer of at least 1, got 0"):
        Server(predictor, max_bytes=0)
    cnn.save_model(tmp_path / "a", cnn.load_model(saved)[0], {**ABOUT, "pixels": "float32"})
    with pytest.raises(ValueError, match="the model was trained on images of float32"):
        Server(cnn.load(tmp_path / "a"), port=0)


# ------------------------------------------------------------------------------------------ the command


def start(saved, *options):
    """The process `cnn serve`, and its address."""
    process = subprocess.Popen([sys.executable, "-m", "cnn", "serve", str(saved), "--port", "0", *options],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"}, restore_signals=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    line = process.stdout.readline()
    found = re.fullmatch(rf"serving {re.escape(str(saved))} at http://127.0.0.1:(\d+)/ \(Ctrl-C ends it\)\n", line)
    assert found, line + process.stderr.read()
    process.server_port = int(found[1])
    return process


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_stop(saved, number):
    process = start(saved)
    try:
        status, found, _ = ask(process, "POST", "/predict", PICTURE)
        assert status == 200
        agrees(found, right(saved))
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and err == ""
    assert re.fullmatch(r"127.0.0.1 'POST /predict HTTP/1.1' 200 \d+ ms\nstopped\n", out)


def test_ctrl_c_while_a_thread_is_started_is_not_lost(saved, monkeypatch):
    """The thread may have answered, and have been forgotten, before the one that started it goes on."""
    def started(server, request, address):
        server.process_request_thread(request, address)
        raise KeyboardInterrupt

    monkeypatch.setattr(serving.ThreadingHTTPServer, "process_request", started)
    server = Server(cnn.load(saved), port=0, say=lambda line: None)
    with contextlib.closing(server), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, server, "GET", "/health")
        with pytest.raises(KeyboardInterrupt):
            server.handle_request()
        assert answer.result()[0] == 200
        assert [server._free.acquire(blocking=False) for _ in range(serving.CONNECTIONS + 1)].count(True) \
            == serving.CONNECTIONS
        for _ in range(serving.CONNECTIONS):
            server._free.release()


def test_options_of_the_command(saved):
    process = start(saved, "--quiet", "--invert", "--max-megabytes", "1", "--name", "a.example")
    try:
        _, found, _ = ask(process, "POST", "/predict", PICTURE, Host="a.example")
        assert found["probability"] == cnn.load(saved, invert=True).predict(PICTURE).probability
        assert ask(process, "POST", "/predict", bytes(2**20 + 1))[0] == 413
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("stopped\n", "")
    finally:
        process.kill()


def test_errors_of_the_command_are_one_line(saved, server, tmp_path, capsys):
    from cnn.commands import main
    for options, words in (([str(tmp_path / "none")], "there is no such model file"),
                           ([str(saved), "--port", str(server.server_port)], "Address already in use"),
                           ([str(saved), "--host", "no.such.host.invalid"], "no.such.host.invalid, port 8000: ")):
        with pytest.raises(SystemExit) as caught:
            main(["serve", *options])
        (line,) = capsys.readouterr().err.splitlines()
        assert caught.value.code == 1 and line.startswith("cnn serve: ") and words in line
