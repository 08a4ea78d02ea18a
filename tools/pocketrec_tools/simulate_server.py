"""`pocketrec simulate --serve`: a web page on this machine, with the real runtime behind a drawn phone.

It keeps nothing: the browser sends the history it wants ranked, `Recommender.rank` answers. Files of the page
lie in `simulate_page/`, are served as they are, and load nothing from elsewhere.
"""

from __future__ import annotations

import html
import secrets
import socket
import threading
import webbrowser
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import typer
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from pocketrec.errors import DataError, PocketrecError
from pocketrec.output import note
from pocketrec_tools.simulate_desk import Ask, Desk
from pocketrec_tools.simulate_guard import Guard, Refusal, Refuser

PAGE = files("pocketrec_tools") / "simulate_page"
ASSETS = {
    "app.js": "text/javascript",
    "view.js": "text/javascript",
    "app.css": "text/css",
    "icon.svg": "image/svg+xml",
}
PLOT_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class PageServer:
    """The page of a desk, listening on 127.0.0.1; `run` serves until it is interrupted.

    Args:
        desk: closed with the server.
        port: 0 takes any free one.

    Raises:
        DataError: `port-taken`.
    """

    def __init__(self, desk: Desk, port: int = 0) -> None:
        self.desk = desk
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen()  # so that a browser that is quicker than us waits
        except OSError:
            self._socket.close()
            raise DataError(
                f"port {port} is taken.", code="port-taken", remedy="Leave --port out to take a free one."
            ) from None
        self.port = int(self._socket.getsockname()[1])
        self.token = secrets.token_urlsafe(24)
        self.url = f"http://127.0.0.1:{self.port}/?token={self.token}"
        app = Guard(application(desk), self.token, self.port, _ErrorPage())
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Serve until interrupted; then close the bundles."""
        try:
            self._server.run(sockets=[self._socket])
        except KeyboardInterrupt:
            pass
        finally:
            self._socket.close()
            self.desk.close()

    def stop(self) -> None:
        """End `run` from another thread."""
        self._server.should_exit = True


def serve(
    target: Path,
    data_dir: Path | None,
    against: Sequence[Path] = (),
    *,
    port: int = 0,
    browser: bool = True,
    engine: str | None = None,
) -> None:
    """Open the page and serve it until interrupted; prints its address on standard output."""
    server = PageServer(Desk.open(target, data_dir, against, engine), port)
    typer.echo(server.url)
    note("The page is for this machine only. Ctrl-C ends it.")
    if browser:
        threading.Timer(0.5, webbrowser.open, (server.url,)).start()
    server.run()


def application(desk: Desk) -> Starlette:
    """The page of a desk, unguarded: `Guard` belongs around it."""

    async def index(request: Request) -> Response:
        return HTMLResponse((PAGE / "index.html").read_text(encoding="utf-8"))

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            raise HTTPException(404)
        return Response((PAGE / name).read_bytes(), media_type=ASSETS[name])

    async def info(request: Request) -> Response:
        return JSONResponse(desk.info())

    async def users(request: Request) -> Response:
        first = request.query_params.get("first", "0")
        if not first.isdecimal():
            raise Refusal(400, "argument-invalid", f"first is {first!r}, not a number.")
        return JSONResponse(desk.users(request.query_params.get("search", ""), int(first)))

    async def user(request: Request) -> Response:
        return JSONResponse(desk.user(request.path_params["row"]))

    async def rank(request: Request) -> Response:
        try:
            ask = Ask.model_validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise Refusal(400, "argument-invalid", f"{where or 'the body'}: {first['msg']}.") from None
        return JSONResponse(await run_in_threadpool(desk.rank, ask))

    async def plot(request: Request) -> Response:
        name = request.path_params["name"]
        if desk.run is None or name not in desk.info()["plots"]:
            raise HTTPException(404)
        text = (desk.run / "plots" / f"{name}.svg").read_text(encoding="utf-8")
        return Response(text, media_type="image/svg+xml", headers={"content-security-policy": PLOT_POLICY})

    async def report(request: Request) -> Response:
        file = desk.run / "report.html" if desk.run else None
        if file is None or not file.is_file():
            raise HTTPException(404)
        return HTMLResponse(
            file.read_text(encoding="utf-8"), headers={"content-security-policy": PLOT_POLICY}
        )

    return Starlette(
        routes=[
            Route("/", index),
            Route("/api/info", info),
            Route("/api/users", users),
            Route("/api/users/{row:int}", user),
            Route("/api/rank", rank, methods=["POST"]),
            Route("/plots/{name}.svg", plot),
            Route("/report", report),
            Route("/{name}", asset),
        ],
        exception_handlers={
            HTTPException: _http_error,
            Refusal: _refusal,
            PocketrecError: _our_error,
            Exception: _unexpected,
        },
    )


def _answer(path: str, status: int, code: str, message: str) -> Response:
    """An error as the reader wants it: JSON for the page's script, a page for a person."""
    if path.startswith("/api/"):
        return JSONResponse({"error": {"code": code, "message": message}}, status)
    page = (PAGE / "error.html").read_text(encoding="utf-8")
    said = page.replace("{status}", str(status)).replace("{code}", html.escape(code))
    return HTMLResponse(said.replace("{message}", html.escape(message)), status)


class _ErrorPage(Refuser):
    def __call__(self, scope: Scope, refusal: Refusal) -> Response:
        return _answer(scope["path"], refusal.status, refusal.code, str(refusal))


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "there is nothing at this address.", 405: "this address does not take that method."}
    return _answer(request.url.path, status, f"http-{status}", words.get(status, "that did not work."))


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _answer(request.url.path, error.status, error.code, str(error))


async def _our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PocketrecError)
    return _answer(request.url.path, 400, error.code, str(error))


async def _unexpected(request: Request, error: Exception) -> Response:
    return _answer(
        request.url.path, 500, "unexpected", "that should not have happened; the terminal says more."
    )
