"""The page's routes: what it asks for, and what it is answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool as run_sync
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from live.web.jobs import MOST_CONSENT, Jobs
from live.web.options import WebOptions
from live.web.persons import Person, find_persons
from live.web.security import Guard, Passwords
from live.web.studio import Session, Studio
from live.web.uploads import Uploads
from util import VERSION
from util.cli import UserError
from util.layout import PageFiles

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MOST_JSON_BYTES = 20_000  # of a request: a consent statement and a few words
BODY_S, LEAST_BYTES_PER_S = 15.0, 10_000  # a request's body may take that long, and longer at that rate: slow networks have ten times it
MOST_MESSAGE_BYTES = 20_000  # of a text message: a pose has 2 kB
MOST_WAITING = 1000  # text messages for a page that does not read, until it is given up (PING_S in server.py); further ones are left out
PICTURES_IN_FLIGHT = 2  # that the page has not shown yet: one on its way while one is shown
STATISTICS_S = 0.5
WRONG_S = 0.5  # after which a wrong password is answered
ENGINE_BUSY = 4409  # close code: somebody else drives


class Page:
    """The server's state, and its answers."""

    def __init__(self, options: WebOptions) -> None:
        self.options = options
        self.files = PageFiles.open(options.results_dir)
        self.passwords = Passwords(options.password)
        self.uploads = Uploads(self.files, options.max_upload_bytes, options.max_video_s)
        self.studio = Studio(self.files, options.datasets_dir, options.backend, options.gpu_ids)
        self.jobs = Jobs(self.files, options.datasets_dir, options.checkpoints_dir)
        self.static = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in TYPES}
        self._receiving = asyncio.Semaphore(2)  # uploads at a time
        self.guard: Guard | None = None

    # ---- the page itself ----

    async def index(self, request: Request) -> Response:
        return Response(self.static["index.html"], media_type=TYPES[".html"], headers={"Cache-Control": "no-cache"})

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.static:
            return _error(404, "there is no such file")
        return Response(self.static[name], media_type=TYPES[Path(name).suffix], headers={"Cache-Control": "no-cache"})

    # ---- session ----

    async def session(self, request: Request) -> Response:
        guard = self._guard(request)
        needed = not self.passwords.knows(guard.token(request.headers))
        return JSONResponse({"password": needed, "version": VERSION, "can_log_out": self.passwords.needed})

    async def log_in(self, request: Request) -> Response:
        told = await _json(request)
        address = request.client.host if request.client else ""
        if wait_s := self.passwords.wait_s(address):
            return _error(429, f"too many wrong passwords; try again in {wait_s:.0f} seconds")
        token = self.passwords.log_in(_text(told, "password", 1000), address)
        if token is None:
            await asyncio.sleep(WRONG_S)
            return _error(403, "this is not the password")
        return JSONResponse({}, headers={"Set-Cookie": self._guard(request).cookie_header(token)})

    async def log_out(self, request: Request) -> Response:
        guard = self._guard(request)
        self.passwords.log_out(guard.token(request.headers))
        return JSONResponse({}, headers={"Set-Cookie": guard.cookie_header("")})

    @staticmethod
    def _guard(request: Request) -> Guard:
        return request.app.state.guard

    # ---- what there is ----

    async def state(self, request: Request) -> Response:
        return JSONResponse(await run_sync(self._state))

    def _state(self) -> dict[str, Any]:
        persons = self.persons()
        return {
            "persons": [
                {**p.as_json(), "picture": p.picture(self.files).stem if p.picture(self.files).is_file() else ""} for p in persons.values()
            ],
            "jobs": self.jobs.all(),
            "recordings": self.recordings(),
            "driving": self.studio.client is not None,
            "has_gpu": self.jobs.has_gpu,
            "limits": {"bytes": self.options.max_upload_bytes, "seconds": self.options.max_video_s},
        }

    def persons(self) -> dict[str, Person]:
        return find_persons(self.options.checkpoints_dir)

    def find_person(self, id: str) -> Person:
        """Raises: UserError."""
        found = self.persons().get(id)
        if found is None:
            raise UserError("this person is not here any more; choose another")
        return found

    async def picture(self, request: Request) -> Response:
        person = (await run_sync(self.persons)).get(request.path_params["id"])
        if person is None or not person.picture(self.files).is_file():
            return _error(404, "there is no picture yet")
        return FileResponse(person.picture(self.files), media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    # ---- recordings ----

    def recordings(self) -> list[dict[str, Any]]:
        """The newest first."""
        found = []
        for path in self.files.recordings.glob("*.mp4"):
            with suppress(OSError):
                status = path.stat()
                found.append({"name": path.name, "bytes": status.st_size, "time": status.st_mtime})
        return sorted(found, key=lambda r: -r["time"])

    async def recording(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in {r["name"] for r in await run_sync(self.recordings)}:
            return _error(404, "there is no such recording")
        path = self.files.recordings / name
        if request.method == "DELETE":
            await run_sync(path.unlink)
            return JSONResponse({})
        kind = "attachment" if "download" in request.query_params else "inline"
        return FileResponse(path, media_type="video/mp4", filename=name, content_disposition_type=kind)

    # ---- uploads ----

    async def upload(self, request: Request) -> Response:
        purpose = request.query_params.get("purpose", "")
        if purpose not in ("drive", "motion", "person"):
            return _error(400, "an upload is for driving, motion or a person")
        length = request.headers.get("content-length", "")
        if self._receiving.locked():
            return _error(429, "other files are being uploaded; try again when they are there")
        async with self._receiving:
            name = unquote(request.query_params.get("name", ""))
            upload = await self.uploads.receive(name, purpose, int(length) if length.isdigit() else None, body(request))
        return JSONResponse(upload.as_json())

    async def sound(self, request: Request) -> Response:
        upload = self.uploads.get(request.path_params["id"])
        if upload.sound is None:
            return _error(404, "this file has no sound")
        return FileResponse(upload.sound, media_type="audio/mp4")

    # ---- new persons ----

    async def new_job(self, request: Request) -> Response:
        told = await _json(request)
        upload = self.uploads.get(told.get("upload"))
        name, consent = _text(told, "name", 200), _text(told, "consent", MOST_CONSENT)
        return JSONResponse(await run_sync(self.jobs.new, self.uploads, upload, name, consent))

    async def job(self, request: Request) -> Response:
        return JSONResponse(await run_sync(self.jobs.details, request.path_params["id"]))

    async def change_job(self, request: Request) -> Response:
        told = await _json(request)
        minutes = told.get("minutes")
        if minutes is not None and (not isinstance(minutes, (int, float)) or not 1 <= minutes <= 24 * 60):
            return _error(400, "training takes from 1 minute to a day")
        action = {
            "train": lambda id: self.jobs.train(id, minutes),
            "stop": self.jobs.stop,
            "resume": self.jobs.resume,
            "delete": self.jobs.delete,
        }
        return JSONResponse(await run_sync(action[request.path_params["action"]], request.path_params["id"]))

    async def sample(self, request: Request) -> Response:
        path = await run_sync(self.jobs.sample, request.path_params["id"], request.path_params["name"])
        return FileResponse(path, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    # ---- driving ----

    async def live(self, websocket: WebSocket) -> None:
        await websocket.accept()
        if self.studio.client is not None:
            await websocket.send_json({"type": "busy"})
            await websocket.close(ENGINE_BUSY)
            return
        outbox = Outbox(asyncio.get_running_loop())
        session = Session(self.studio, self.files, self.find_person, self.uploads.get, outbox.put)
        self.studio.client = session
        tasks = [asyncio.create_task(outbox.send_to(websocket)), asyncio.create_task(_tell_statistics(session, outbox))]
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                await self._take(message, session, outbox)
        except WebSocketDisconnect:
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.shield(run_sync(session.close))
            if self.studio.client is session:
                self.studio.client = None

    @staticmethod
    async def _take(message: dict[str, Any], session: Session, outbox: Outbox) -> None:
        text, data = message.get("text"), message.get("bytes")
        try:
            if data is not None:
                if not data:  # a picture was shown
                    outbox.shown()
                    return
                await run_sync(session.receive_bytes, data)
                if data[0] == 1:
                    outbox.put({"type": "next"})
            elif text is not None and len(text) <= MOST_MESSAGE_BYTES:
                await run_sync(session.receive, text)
        except UserError as e:
            outbox.put({"type": "error", "text": str(e)})

    async def draw_pictures(self) -> None:
        """Draw the persons who have no picture yet, one by one, while nobody drives and nothing is computed."""
        failed: set[Path] = set()
        while True:
            for person in (await run_sync(self.persons)).values():
                picture = person.picture(self.files)
                if picture not in failed and not picture.is_file() and self.studio.client is None and not self.jobs.working:
                    try:
                        await run_sync(self.studio.draw_picture, person)
                    except Exception:  # a damaged run: said when it is chosen
                        failed.add(picture)
            await asyncio.sleep(5)


class Outbox:
    """What waits to be sent to a page: messages in order, and of pictures the newest. Filled from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._messages: list[dict[str, Any]] = []
        self._picture: bytes | None = None
        self._in_flight = 0
        self._changed = asyncio.Event()

    def put(self, item: dict[str, Any] | bytes) -> None:
        with suppress(RuntimeError):  # the server ends
            self._loop.call_soon_threadsafe(self._put, item)

    def _put(self, item: dict[str, Any] | bytes) -> None:
        if isinstance(item, bytes):
            self._picture = item
        elif len(self._messages) < MOST_WAITING:
            self._messages.append(item)
        self._changed.set()

    def shown(self) -> None:
        """The page has shown a picture."""
        self._in_flight = max(0, self._in_flight - 1)
        self._changed.set()

    async def send_to(self, websocket: WebSocket) -> None:
        """Send what comes, until cancelled or the page is gone."""
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                await self._changed.wait()
                self._changed.clear()
                while self._messages:
                    await websocket.send_text(json.dumps(self._messages.pop(0)))
                if self._picture is not None and self._in_flight < PICTURES_IN_FLIGHT:
                    picture, self._picture = self._picture, None
                    self._in_flight += 1
                    await websocket.send_bytes(picture)


async def _tell_statistics(session: Session, outbox: Outbox) -> None:
    while True:
        await asyncio.sleep(STATISTICS_S)
        outbox.put(session.statistics())


async def body(request: Request) -> AsyncIterator[bytes]:
    """What a request brings, in parts. Raises: UserError when it comes so slowly that it would only hold the connection."""
    began, received, parts = time.monotonic(), 0, request.stream().__aiter__()
    while True:
        left_s = BODY_S + received / LEAST_BYTES_PER_S - (time.monotonic() - began)
        try:
            part = await asyncio.wait_for(parts.__anext__(), max(left_s, 0.0))
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise UserError("this comes too slowly; try again where the network is better") from None
        received += len(part)
        yield part


async def _json(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises: UserError."""
    data = b""
    async for chunk in body(request):
        data += chunk
        if len(data) > MOST_JSON_BYTES:
            raise UserError("this is too long")
    try:
        told = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise UserError("the page sent something that the server does not understand; load it again")
    return told


def _text(told: dict[str, Any], name: str, most: int) -> str:
    value = told.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"the {name} is missing")
    if len(value) > most:
        raise UserError(f"the {name} is longer than {most} letters")
    return value.strip() if name != "password" else value


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)


async def _on_user_error(request: Request, error: UserError) -> Response:
    return _error(400, str(error))


async def _on_gone(request: Request, error: ClientDisconnect) -> Response:
    return _error(400, "the upload was broken off")


async def _on_fault(request: Request, error: Exception) -> Response:
    return _error(500, "the server made a mistake; its window says more")


async def _on_http(request: Request, error: Any) -> Response:
    return _error(error.status_code, "there is no such thing here")


def make_app(options: WebOptions) -> Starlette:
    """The ASGI application. Raises: UserError."""
    page = Page(options)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        drawing = asyncio.create_task(page.draw_pictures())
        yield
        drawing.cancel()
        if page.studio.client is not None:
            await run_sync(page.studio.client.close)
        await run_sync(page.studio.close)

    def get(path: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, answer, methods=["GET"])

    def post(path: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, answer, methods=["POST"])

    routes = [
        get("/", page.index),
        get("/static/{name}", page.asset),
        get("/api/session", page.session),
        post("/api/login", page.log_in),
        post("/api/logout", page.log_out),
        get("/api/state", page.state),
        get("/api/persons/{id}/picture", page.picture),
        Route("/api/recordings/{name}", page.recording, methods=["GET", "DELETE"]),
        post("/api/uploads", page.upload),
        get("/api/uploads/{id}/sound", page.sound),
        post("/api/jobs", page.new_job),
        get("/api/jobs/{id}", page.job),
        get("/api/jobs/{id}/samples/{name}", page.sample),
        *(post(f"/api/jobs/{{id}}/{action}", _with_action(page.change_job, action)) for action in ("train", "stop", "resume", "delete")),
        WebSocketRoute("/live", page.live),
    ]
    handlers = {UserError: _on_user_error, ClientDisconnect: _on_gone, 404: _on_http, 405: _on_http, 500: _on_fault}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    guard = Guard(app, options, page.passwords)
    app.state.guard, app.state.page = guard, page
    return app


def _with_action(answer: Callable[[Request], Awaitable[Response]], action: str) -> Callable[[Request], Awaitable[Response]]:
    async def with_action(request: Request) -> Response:
        request.path_params["action"] = action
        return await answer(request)

    return with_action
