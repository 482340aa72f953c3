"""Who may ask the page's server for what: the address it is called by, the page that asks, and the password."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from live.web.options import WebOptions, is_loopback

SESSION_S = 12 * 3600.0  # a day's work; then the password is asked for again
MOST_SESSIONS = 100
FREE_TRIES = 5  # wrong passwords of one address before it has to wait
MOST_WAIT_S = 60.0  # the wait doubles with every further one, up to this
MOST_ADDRESSES = 1000  # that are remembered for wrong passwords; the oldest are forgotten
OPEN_PATHS = frozenset({"/", "/api/session", "/api/login"})  # the page itself asks for the password
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {
    # nothing but what this server sends: no inline scripts or styles, no other address, no frame around the page
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(self), autoplay=(self), geolocation=()",
}


class Passwords:
    """The password, the sessions that gave it, and the addresses that gave a wrong one."""

    def __init__(self, password: str | None) -> None:
        self._digest = None if password is None else _digest(password)
        self._sessions: OrderedDict[str, float] = OrderedDict()  # token's digest -> when it ends (time.monotonic)
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> wrong passwords, when the next may be tried

    @property
    def needed(self) -> bool:
        return self._digest is not None

    def wait_s(self, address: str) -> float:
        """How long this address has to wait before its next try, seconds."""
        return max(0.0, self._wrong.get(network_of(address), (0, 0.0))[1] - time.monotonic())

    def log_in(self, password: str, address: str) -> str | None:
        """The token of a new session; None when the password is wrong. Compared in constant time."""
        network = network_of(address)
        if not hmac.compare_digest(_digest(password), self._digest or b""):
            count = self._wrong.pop(network, (0, 0.0))[0] + 1
            wait_s = min(MOST_WAIT_S, 2.0 ** min(count - FREE_TRIES, 10)) if count >= FREE_TRIES else 0.0
            self._wrong[network] = count, time.monotonic() + wait_s
            while len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)
            return None
        self._wrong.pop(network, None)
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token).hex()] = time.monotonic() + SESSION_S
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return token

    def log_out(self, token: str) -> None:
        self._sessions.pop(_digest(token).hex(), None)

    def knows(self, token: str) -> bool:
        """Whether a token is of a session that has not ended; always when no password is needed."""
        return not self.needed or self._sessions.get(_digest(token).hex(), 0.0) > time.monotonic()


class Guard:
    """ASGI middleware: refuses other host names, other pages and those without a session; adds HEADERS to every answer.

    - The Host must be this machine's (an address, `localhost`, its own name): a foreign name that points here (DNS rebinding) is refused.
    - Whatever changes something, and the WebSocket, must come from a page of the same origin.
    - With a password, all but OPEN_PATHS and the static files need a session.
    """

    def __init__(self, app: ASGIApp, options: WebOptions, passwords: Passwords) -> None:
        self._app, self._options, self._passwords = app, options, passwords
        self.cookie = "__Host-head2head" if options.tls is not None else "head2head"  # __Host-: only https, only this host
        own = socket.gethostname().lower()
        self._names = {"localhost", options.host.lower()} | (set() if options.is_local else {own, f"{own}.local", socket.getfqdn().lower()})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "websocket":
            if refusal:
                await receive()
                await send({"type": "websocket.close", "code": 4403, "reason": refusal[1]})
            else:
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                if self._options.tls is not None:
                    headers["Strict-Transport-Security"] = "max-age=86400"
            await send(message)

        if refusal:
            await JSONResponse({"error": refusal[1]}, refusal[0])(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and sentence for a request that is refused."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_own(host):
            return 421, "this server is not called by that name; open it by its address"
        is_socket = scope["type"] == "websocket"
        if is_socket or scope["method"] not in SAFE_METHODS:
            if not self._is_same_origin(headers.get("origin", ""), host):
                return 403, "only the page of this server may ask for that"
        elif headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") and scope["path"] != "/":
            return 403, "only the page of this server may ask for that"
        path = scope["path"]
        if path not in OPEN_PATHS and not path.startswith("/static/") and not self._passwords.knows(self.token(headers)):
            return 401, "log in first"
        return None

    def token(self, headers: Headers) -> str:
        """The session's token that a request carries; '' for none."""
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return found.value if found else ""

    def cookie_header(self, token: str) -> str:
        """Set-Cookie of a session's token; an empty one ends the session."""
        secure = "; Secure" if self._options.tls is not None else ""
        return f"{self.cookie}={token}; Path=/; HttpOnly; SameSite=Strict{secure}; Max-Age={SESSION_S if token else 0:.0f}"

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            _ = urlsplit(f"//{host}").port
        except ValueError:
            return False
        if name in self._names:
            return True
        try:  # an address cannot be pointed elsewhere
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return not self._options.is_local or is_loopback(name)

    def _is_same_origin(self, origin: str, host: str) -> bool:
        scheme = "https" if self._options.tls is not None else "http"
        return origin.lower() == f"{scheme}://{host.lower()}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def network_of(address: str) -> str:
    """The address, or of IPv6 the network that one household or attacker has all of."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
