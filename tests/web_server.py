"""A page's server with a person of random weights, for the tests."""

import http.client
import threading
import time
from pathlib import Path

import requests
from fake_run import make_run
from test_retarget import make_person
from websockets.sync.client import connect

from live.web.options import WebOptions
from preprocessing.driving.profile import TargetProfile
from preprocessing.face_models.registry import load_face_model
from util.image_io import write_bytes


def make_person_run(root: Path, name: str = "Ann", **changes):
    """A run that can be driven, in root/checkpoints/fake."""
    model = load_face_model("mesh478")
    files, _, _ = make_run(root, name, face_model={"name": model.name, "version": model.version}, **changes)
    write_bytes(files.profile_path(name), TargetProfile.of(model, make_person(model, 1), name).to_bytes())
    return files


def web_options(root: Path, **changes) -> WebOptions:
    places = {"checkpoints_dir": root / "checkpoints", "datasets_dir": root / "datasets", "results_dir": root / "results"}
    return WebOptions(**{"backend": "torch", "gpu_ids": "-1", **places, **changes})


class RunningServer:
    """The real server on a free port, in a thread. Requests go to it as those of its own page do, unless they say otherwise."""

    def __init__(self, options: WebOptions) -> None:
        import uvicorn

        from live.web.app import make_app
        from live.web.certificate import self_made
        from live.web.server import listen, server_config

        self._listening = listen(options.host, 0)
        self.app = make_app(options)
        self.session, tls = requests.Session(), {}
        self.session.trust_env = False  # no proxy, and no other certificates
        if options.tls is not None:
            certificate, key = self_made(self.app.state.page.files.home / "certificate", options.host)
            tls, self.session.verify = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}, str(certificate)
        self._server = uvicorn.Server(server_config(self.app.state.guard, **tls))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listening]}, daemon=True)
        self.port = self._listening.getsockname()[1]
        self.address = f"{'http' if options.tls is None else 'https'}://localhost:{self.port}"
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self.session.close()
        self._server.should_exit = True
        self._thread.join(20)
        self._listening.close()

    def request(self, method: str, path: str, headers: dict | None = None, **more) -> requests.Response:
        """headers: a value None leaves out the header."""
        return self.session.request(method, self.address + path, headers={"origin": self.address, **(headers or {})}, timeout=60, **more)

    def get(self, path: str, **more) -> requests.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more) -> requests.Response:
        return self.request("POST", path, **more)

    def delete(self, path: str, **more) -> requests.Response:
        return self.request("DELETE", path, **more)

    def raw(self, method: str, path: str) -> tuple[int, bytes]:
        """A path that no client mends."""
        connection = http.client.HTTPConnection("localhost", self.port, timeout=20)
        connection.putrequest(method, path)
        connection.putheader("origin", self.address)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def live(self, headers: dict | None = None):
        """The WebSocket. Raises: websockets.exceptions.InvalidStatus when it is refused."""
        headers = {"origin": self.address, **(headers or {})}
        given = {name: value for name, value in headers.items() if value is not None and name != "origin"}
        return connect(
            f"ws://localhost:{self.port}/live", origin=headers["origin"], additional_headers=given, compression=None, max_size=None
        )
