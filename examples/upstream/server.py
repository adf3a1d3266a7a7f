"""A model server as many are: HTTP, and nothing of aipod in it. POST /predict and POST /echo.

    python3 examples/upstream/server.py PORT

Port 0 is any that is free. The first line that it prints is its address.
"""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 64 << 10  # bytes of a body that are in memory at once


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, bodies can be chunked
    disable_nagle_algorithm = True

    def do_POST(self):
        function = {"/predict": self.predict, "/echo": self.echo}.get(self.path.partition("?")[0])
        self.left = int(self.headers.get("Content-Length", 0))
        if function is None:
            self.answer(404, {"error": f"there is no {self.path}"})
        else:
            function()
        if self.left > 0:  # the next request does not start here
            self.close_connection = True

    def predict(self):
        """What a model would do with the payload: looks at all of it, and answers in JSON."""
        try:
            kwargs = json.loads(self.headers.get("Aipod-Kwargs", "{}"))
        except ValueError as err:
            self.answer(400, {"error": f"the kwargs are not JSON: {err}"})
            return
        size, digest = 0, hashlib.sha256()
        for piece in self.pieces():
            size += len(piece)
            digest.update(piece)
        self.answer(200, {"bytes": size, "sha256": digest.hexdigest(), "kwargs": kwargs})

    def echo(self):
        """Gives the payload back while it comes."""
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in self.pieces():
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def pieces(self):
        """The body, in pieces as they come."""
        while self.left > 0:
            piece = self.rfile.read1(min(PIECE, self.left))
            if not piece:
                raise ConnectionError("the body ended early")
            self.left -= len(piece)
            yield piece

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        err = sys.exc_info()[1]
        if isinstance(err, ConnectionError):  # the call was canceled
            print(f"{client_address[0]}: {err}", file=sys.stderr)
        else:
            super().handle_error(request, client_address)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    with Server(("127.0.0.1", int(sys.argv[1])), Model) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
