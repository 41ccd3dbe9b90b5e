"""Images behind URLs: a server that may fetch from here, and servers that mean harm."""

import contextlib
import json
import socket
import ssl
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from conftest import start_server
from test_drop_in import make_certificates
from test_tritonclient import PNG

IMAGE = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%s" % (len(PNG[0]), PNG[0])


class Host:
    """Says the same to whoever connects: bytes, or what `answer(connection)` does."""

    def __init__(self, answer, context=None):
        self.answer, self.context, self.asked = answer, context, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.asked += 1
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        with contextlib.suppress(OSError):
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            with connection:
                connection.recv(65536)
                if callable(self.answer):
                    self.answer(connection)
                else:
                    connection.sendall(self.answer)

    def origin(self, name="127.0.0.1", scheme="http"):
        return f"{scheme}://{name}:{self.port}"


def forever(head, piece, pause=None):
    def answer(connection):
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            if pause:
                pause.wait(0.05)
    return answer


@contextlib.contextmanager
def fetching(*arguments, seconds=1):
    """A server with these options; ends well, whatever it was sent."""
    urls = start_server(["--http-max-input-size", "1000000", "--image-url-timeout-secs", str(seconds), *arguments])
    try:
        yield urls
    finally:
        if urls.process.poll() is None:
            urls.process.terminate()
            assert urls.process.wait(timeout=40) == 0


def embed(urls, *images):
    body = json.dumps({"model": "siglip", "input": [{"type": "image_url", "image_url": {"url": url}} for url in images],
                       "normalized": False}).encode()
    request = urllib.request.Request(f"http://{urls.http}/v1/embeddings", data=body)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return 200, np.array([row["embedding"] for row in json.load(answer)["data"]], np.float32)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def test_hosts_that_mean_harm():
    inside = Host(IMAGE)
    pause = threading.Event()
    hosts = {
        "redirects, which is not followed":
            Host(b"HTTP/1.1 302 Found\r\nLocation: %s/\r\nContent-Length: 0\r\n\r\n" % inside.origin().encode()),
        "larger than the limit of 1000000 bytes": Host(forever(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)),
        "larger than the limit": Host(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"),
        "did not come within 1000 ms": Host(forever(b"HTTP/1.1 200 OK\r\n\r\n", b"x", pause)),
        "did not come within 1000": Host(lambda connection: pause.wait(30)),
        "did not come within": Host(forever(b"HTTP/1.1 200 OK\r\nX: ", b"x", pause)),
        "head of more than": Host(forever(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 1000 + b"\r\n")),
        "cannot be fetched": Host(b"\x00\x01\x02" * 100 + b"\r\n\r\n"),
        "cannot be": Host(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"),
        "answered 500": Host(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
        "expected an image file": Host(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
    }
    good = Host(IMAGE)
    allow = [f"--image-url-allow={host.origin()}" for host in [good, *hosts.values()]]
    with fetching("--image-url-allow-private", "true", *allow) as urls:
        status, rows = embed(urls, *[f"{good.origin()}/{i}" for i in range(20)])
        assert status == 200 and len(rows) == 20 and (rows == rows[0]).all()
        for said, host in hosts.items():
            status, error = embed(urls, good.origin() + "/a", host.origin() + "/a")
            assert status == 400 and said in error["message"], (said, error)
            # What came but is no image is found by the model, in a batch.
            assert error["message"].startswith(("input[1]: ", "input[0..1]: ")) and error["param"] == "input"
        assert inside.asked == 0, "the redirect was followed"
        status, error = embed(urls, *[good.origin()] * 33)
        assert status == 400 and "at most 32 URLs" in error["message"]
        assert embed(urls, good.origin())[0] == 200
    pause.set()


def test_nothing_inside_is_reached():
    """Allowed by name, refused by address; and what was never allowed is not even looked up."""
    inside = Host(IMAGE)
    with fetching("--image-url-allow", inside.origin("localhost"), "--image-url-allow", inside.origin(),
                  "--image-url-allow", f"http://[::1]:{inside.port}", "--image-url-allow",
                  "http://169.254.169.254") as urls:
        for url in (inside.origin("localhost"), inside.origin(), f"http://[::1]:{inside.port}/",
                    f"http://2130706433:{inside.port}/", f"http://0x7f.1:{inside.port}/",
                    "http://169.254.169.254/latest/meta-data/"):
            status, error = embed(urls, url)
            assert status == 400 and "no public address" in error["message"], (url, error)
        for url in ("file:///etc/passwd", f"gopher://127.0.0.1:{inside.port}/", f"http://127.0.0.2:{inside.port}/",
                    f"http://user@localhost:{inside.port}/", f"http://localhost:{inside.port + 1}/",
                    f"https://localhost:{inside.port}/", "http://localhost\r\nX: y/", "http://"):
            status, error = embed(urls, url)
            assert status == 400 and error["message"].startswith("input[0]: "), (url, error)
            assert "no public address" not in error["message"], url
        assert inside.asked == 0


def test_https_is_verified(tmp_path):
    make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    host = Host(IMAGE, context)
    allow = ["--image-url-allow", f"localhost:{host.port}", "--image-url-allow", f"127.0.0.2:{host.port}",
             "--image-url-allow-private", "true"]
    with fetching(*allow, "--image-url-root-cert", str(tmp_path / "root.pem")) as urls:
        status, rows = embed(urls, host.origin("localhost", "https"))
        assert status == 200 and rows.shape[0] == 1, rows
    with fetching(*allow) as urls:
        status, error = embed(urls, host.origin("localhost", "https"))
        assert status == 400 and "cannot be fetched" in error["message"], error


@pytest.mark.parametrize("arguments", [["--image-url-allow", "https://a"], ["--image-url-allow", "a/b"],
                                       ["--image-url-allow", "a", "--image-url-root-cert", "/no/pem"]])
def test_wrong_options_end_the_start(arguments):
    with pytest.raises(RuntimeError, match=arguments[-1]):
        start_server(arguments)


def test_clients_that_leave_and_the_end_do_not_wait_for_hosts():
    pause = threading.Event()
    host = Host(lambda connection: pause.wait(60))
    body = json.dumps({"model": "siglip", "input": {"image": host.origin()}}).encode()
    with fetching("--image-url-allow", host.origin(), "--image-url-allow-private", "true", "--exit-timeout-secs", "1",
                  seconds=600) as urls:
        address = urls.http.split(":")
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)

        def send():
            connection = socket.create_connection((address[0], int(address[1])))
            connection.sendall(head + body)
            return connection

        # As many as are fetched at a time, and they leave; then others have their turn.
        first = [send() for _ in range(16)]
        while host.asked < 16:
            pause.wait(0.01)
        second = send()
        for connection in first:
            connection.close()
        while host.asked < 17:
            pause.wait(0.01)
        urls.process.terminate()
        assert urls.process.wait(timeout=20) != 0, "an accepted request was not finished in time"
        assert b" 503 " in second.recv(100)
    pause.set()
