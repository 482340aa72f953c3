"""The page's server: `serve` shows it until it is interrupted."""

from __future__ import annotations

import errno
import socket

from live.web.certificate import self_made
from live.web.options import WebOptions
from live.web.security import network_of
from live.web.wire import MOST_BYTES
from util.cli import UserError, say, warn

MOST_CONNECTIONS = 100  # at once; further ones are answered 503
MOST_OF_ADDRESS = 64  # connections of one address (IPv6: a /64) at once; further ones are cut off, so that no machine keeps out all others
HEAD_S = 15.0  # in which a connection has to ask for something, at first and after each answer
PING_S = 5.0  # after which a page that does not answer is taken for gone: another one may drive


def serve(options: WebOptions) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Raises: UserError when the port is taken, or options cannot be used."""
    options.check()
    try:
        import uvicorn

        from live.web.app import make_app
    except ModuleNotFoundError as e:
        raise UserError(f"the page needs the package {e.name}: bash scripts/setup_env.sh, or pip install {e.name}") from None

    app = make_app(options)
    tls = {}
    if options.tls is not None:
        certificate, key = options.tls or self_made(app.state.page.files.home / "certificate", options.host)
        tls = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    listening = listen(options.host, options.port)
    config = server_config(app.state.guard, **tls)
    try:
        server = uvicorn.Server(config)
        config.load()
    except OSError as e:  # ssl.SSLError too
        listening.close()
        raise UserError(f"--tls: the certificate or its key cannot be used ({e}); both are to be PEM files that belong together") from None
    for line in _greeting(options, listening.getsockname()[1]):
        say(line)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has ended in order, and raises it again
        pass
    finally:
        listening.close()


def server_config(app, **tls):
    """How uvicorn serves the page (uvicorn.Config). tls: its options for https."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class ImpatientProtocol(H11Protocol):
        """Cuts off connections that are too many, or do not ask for anything: uvicorn itself waits for a request's head without end."""

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            own = sum(self._network() == ImpatientProtocol._network(other) for other in self.connections)
            if own > MOST_OF_ADDRESS or len(self.connections) > 2 * MOST_CONNECTIONS:  # files that are open have a limit as well
                transport.abort()
            self._timer = self.loop.call_later(HEAD_S, self._look, transport, self)

        def connection_lost(self, exc) -> None:
            super().connection_lost(exc)
            self._timer.cancel()  # else it would hold what the connection sent

        def _network(self) -> str:
            return network_of(self.client[0] if self.client else "")

        def _look(self, transport, before) -> None:
            """Every HEAD_S. before: the answer after which nothing was asked when it was looked last (itself: none yet), None if busy."""
            if transport.get_protocol() is not self:  # it became a WebSocket
                return
            now = self.cycle or self
            if self.cycle is not None and not self.cycle.response_complete:
                now = None
            if now is not None and now is before:
                transport.abort()
            else:
                self._timer = self.loop.call_later(HEAD_S, self._look, transport, now)

    return uvicorn.Config(
        app,
        http=ImpatientProtocol,
        lifespan="on",
        log_level="error",  # a line for every broken request would let strangers fill a disk
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=5,
        ws_max_size=MOST_BYTES,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,  # JPEGs do not get smaller, only later
        **tls,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; port 0: any free one. Raises: UserError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UserError(f"--host {host}: there is no such name or address; 0.0.0.0 means all addresses of this machine") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as e:
        listening.close()
        if e.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is taken by another program; end it, or give another --port") from None
        if e.errno == errno.EADDRNOTAVAIL:
            raise UserError(f"--host {host} is not an address of this machine; 0.0.0.0 means all of its addresses") from None
        raise UserError(f"cannot listen on {host}, port {port}: {e.strerror}; give another --port") from None
    return listening


def _greeting(options: WebOptions, port: int) -> list[str]:
    scheme = "http" if options.tls is None else "https"
    name = "localhost" if options.is_local else socket.gethostname() if options.host in ("0.0.0.0", "::") else options.host
    lines = [f"the page: {scheme}://{f'[{name}]' if ':' in name else name}:{port}   (Ctrl-C ends it)"]
    if not options.is_local and options.tls is None:
        warn("without --tls the password and all pictures travel readable, and browsers of other machines hide their camera")
    elif options.tls == ():
        lines.append("the certificate is self-made: browsers warn once; go on to the page")
    return lines
