"""A local HTTP server whose files come in every way in which servers get it wrong."""

import gzip
import http.server
import socket
import struct
import threading
import time
from contextlib import contextmanager

STALL_S = 1.0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, asked, server = self.path.partition("?")[0], self.headers.get("Range"), self.server
        server.log.append((path, asked))
        server.headers.append(self.headers)
        first = path not in server.seen
        server.seen.add(path)
        how = server.how.get(path, "well")
        if path not in server.files:
            return self.send_error(404)
        data = server.files[path]
        if first or not how.endswith(" once"):
            fault = getattr(self, how.removesuffix(" once").replace(" ", "_"), None)
            if fault:
                return fault(data, asked)
        self.well(data, asked)

    def well(self, data, asked, cut=None, etag=None, **headers):
        """The file or the range that was asked for; of it only the first `cut` bytes. etag: what the server names the content."""
        start = int(asked[6:-1]) if asked else 0
        if start and etag and self.headers.get("If-Range") not in (None, etag):
            start = 0
        if start >= len(data) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        range = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        named = {"ETag": etag} if etag else {}
        self.reply(206 if start else 200, data[start:], cut, **{**named, **range, **headers})

    def reply(self, code, body, cut=None, **headers):
        self.send_response(code)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:cut])

    def forbidden(self, data, asked):
        self.send_error(403)

    def busy(self, data, asked):
        self.send_error(503)

    def later(self, data, asked):
        self.reply(429, b"", Retry_After="1")

    def much_later(self, data, asked):
        self.reply(429, b"", Retry_After="7200")

    def silent(self, data, asked):
        time.sleep(STALL_S)

    def slow(self, data, asked):
        self.well(data, asked, cut=300_000)
        self.wfile.flush()
        time.sleep(STALL_S)

    def cut(self, data, asked):
        self.well(data, asked, cut=300_000)

    def reset(self, data, asked):
        self.well(data, asked, cut=300_000)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def plain(self, data, asked):
        self.well(data, None)

    def wrong_range(self, data, asked):
        """From elsewhere than was asked for."""
        self.reply(206, data[10:], Content_Range=f"bytes 10-{len(data) - 1}/{len(data)}") if asked else self.well(data, asked)

    def nameless_range(self, data, asked):
        self.reply(206, data) if asked else self.well(data, asked)

    def unasked_range(self, data, asked):
        self.reply(206, data[:100], Content_Range=f"bytes 0-99/{len(data)}")

    def page(self, data, asked):
        self.reply(200, b"<!DOCTYPE html><title>Dropbox - File\n Deleted</title><p>gone", Content_Type="text/html; charset=utf-8")

    def page_of_another_kind(self, data, asked):
        self.reply(200, b"\n<html><p>Please log in", Content_Type="application/octet-stream")

    def nothing(self, data, asked):
        self.reply(200, b"")

    def gzip(self, data, asked):
        self.reply(200, gzip.compress(data, 1), Content_Encoding="gzip")

    def gzip_cut(self, data, asked):
        self.reply(200, gzip.compress(data, 1), cut=300_000, Content_Encoding="gzip")

    def brotli(self, data, asked):
        self.reply(200, data, Content_Encoding="br")

    def unsized(self, data, asked):
        self.reply(200, data, Content_Length=None)

    def unsized_cut(self, data, asked):
        self.reply(200, data, cut=300_000, Content_Length=None)

    def chunked(self, data, asked):
        self.protocol_version = "HTTP/1.1"
        self.reply(200, b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data), Content_Length=None, Transfer_Encoding="chunked", Connection="close")

    def circle(self, data, asked):
        self.reply(302, b"", Location=self.path)

    def to_a_file(self, data, asked):
        self.reply(302, b"", Location="file:///etc/hostname")

    def moved(self, data, asked):
        self.server.files["/there"] = data
        self.reply(302, b"", Location="/there")

    def tagged(self, data, asked):
        """An ETag that is the content's; the first time cut off."""
        cut = 300_000 if len([p for p, _ in self.server.log if p == self.path]) == 1 else None
        self.well(data, asked, cut, etag=f'"{hash(data)}"')

    def tagged_but_deaf(self, data, asked):
        """The same, by a server that does not know If-Range."""
        del self.headers["If-Range"]
        self.tagged(data, asked)

    def log_message(self, *args):
        pass


class FileServer(http.server.ThreadingHTTPServer):
    """files: path -> content; how: path -> what goes wrong, a method of Handler, always or the first time (" once")."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files, self.how = {}, {}
        self.log, self.headers, self.seen = [], [], set()

    def handle_error(self, request, client_address):
        pass


@contextmanager
def serving():
    with FileServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
