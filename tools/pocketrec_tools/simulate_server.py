"""`pocketrec simulate --serve`: a web page on this machine, with the real runtime behind a drawn phone.

It keeps nothing: the browser sends the history it wants ranked, `Recommender.rank` answers. Files of the page
lie in `simulate_page/`, are served as they are, and load nothing from elsewhere.
"""

from __future__ import annotations

import html
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import typer
import uvicorn
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from pocketrec.errors import DataError, PocketrecError
from pocketrec.events import as_events
from pocketrec.output import note
from pocketrec.recommender import Recommender
from pocketrec_export.data import Dataset, load_dataset
from pocketrec_tools.simulate_guard import Guard, Refusal, Refuser, no_network
from pocketrec_tools.simulate_policies import cosines
from pocketrec_tools.simulate_run import read_run

PAGE = files("pocketrec_tools") / "simulate_page"
ASSETS = {
    "app.js": "text/javascript",
    "view.js": "text/javascript",
    "app.css": "text/css",
    "icon.svg": "image/svg+xml",
}
WHY = 2
MOST_EVENTS = 2000
LISTED = 50
PLOT_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Ask(BaseModel):
    """What the page asks of a phone.

    Attributes:
        phone: which one.
        history: (item id, event, Unix seconds or None), oldest first.
        at: the phone's clock; later events are ignored.
        offline: rank with the network refused.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    phone: int = Field(ge=0)
    history: list[tuple[str, str, int | None]] = Field(max_length=MOST_EVENTS)
    k: int = Field(10, ge=1, le=100)
    at: int | None = None
    offline: bool = False


@dataclass
class Desk:
    """What the page shows: open bundles, data, and a run if there is one.

    Attributes:
        names, phones: the bundles, and what they are called.
        data: whose events can be played.
        run: folder of the run; None without one.
    """

    names: list[str]
    phones: list[Recommender]
    data: Dataset
    run: Path | None = None
    titles: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.titles = self.data.columns.get("title") or [""] * self.data.num_items

    @classmethod
    def open(
        cls, target: Path, data_dir: Path | None, against: Sequence[Path], engine: str | None = None
    ) -> Desk:
        """Of a bundle and its data, or of a run.

        Raises:
            BundleError, DataError, PocketrecError: as `Recommender.open`, `load_dataset`, `read_run`.
        """
        if data_dir is None:
            found = read_run(target)
            paths: dict[str, str] = {}
            for arm in found["arms"]:
                paths.setdefault(arm["bundle"], arm["name"])
                if arm["conditions"]["update"]:
                    paths.setdefault(arm["conditions"]["update"], f"{arm['name']}, updated")
            named = [(name, Path(path)) for path, name in paths.items()]
            data_dir, run = Path(found["data"]), target
            engine = engine or found["settings"]["engine"]
        else:
            named, run = list(zip("ABCDEFGHIJ", [target, *against], strict=False)), None
        data = load_dataset(data_dir)
        phones: list[Recommender] = []
        try:
            for _, path in named:
                phones.append(Recommender.open(path, engine=engine))
        except BaseException:
            for phone in phones:
                phone.close()
            raise
        return cls([name for name, _ in named], phones, data, run)

    def close(self) -> None:
        """Close the bundles."""
        for phone in self.phones:
            phone.close()

    def info(self) -> dict[str, Any]:
        """What there is."""
        plots = sorted(path.stem for path in (self.run / "plots").glob("*.svg")) if self.run else []
        phones = [
            {
                "name": name,
                "bundle": phone.bundle.manifest.name,
                "bundle_id": phone.bundle.manifest.bundle_id[:12],
                "precision": phone.bundle.manifest.precision,
                "items": phone.bundle.catalogue.n,
                "engine": phone.engine,
                "events": list(phone.bundle.manifest.events),
            }
            for name, phone in zip(self.names, self.phones, strict=True)
        ]
        return {
            "phones": phones,
            "data": {"users": self.data.num_users, "events": self.data.num_events, "timed": self.data.timed},
            "plots": plots,
            "report": bool(self.run and (self.run / "report.html").is_file()),
        }

    def users(self, search: str, first: int) -> dict[str, Any]:
        """Users whose id holds the text, fifty from `first` on."""
        ids = self.data.user_ids
        rows = [row for row, user in enumerate(ids) if search.lower() in user.lower()]
        some = rows[first : first + LISTED]
        counts = np.diff(self.data.offsets)
        return {
            "total": len(rows),
            "users": [{"row": row, "id": ids[row], "events": int(counts[row])} for row in some],
        }

    def user(self, row: int) -> dict[str, Any]:
        """A user's events, oldest first; of very many, the last ones."""
        if not 0 <= row < self.data.num_users:
            raise HTTPException(404)
        own = self.data.user_slice(row)
        own = slice(max(own.start, own.stop - MOST_EVENTS), own.stop)
        data = self.data
        events = [
            {
                "item_id": data.item_ids[item],
                "title": self.titles[item],
                "event": data.events[kind],
                "time": when,
            }
            for item, kind, when in zip(
                data.items[own].tolist(),
                data.event_ids[own].tolist(),
                data.timestamps[own].tolist(),
                strict=True,
            )
        ]
        return {"row": row, "id": data.user_ids[row], "events": events}

    def rank(self, ask: Ask) -> dict[str, Any]:
        """The phone's list, and for each item the rows of the history that lie nearest to its own."""
        if ask.phone >= len(self.phones):
            raise HTTPException(404)
        phone = self.phones[ask.phone]
        began = time.perf_counter()
        tries = None
        if ask.offline:
            with no_network() as counted:
                ranking = phone.rank(ask.history, ask.k, at=ask.at)
            tries = counted.count
        else:
            ranking = phone.rank(ask.history, ask.k, at=ask.at)
        seconds = time.perf_counter() - began
        positions = np.array([item.position for item in ranking], dtype=np.intp)
        why = self._why(phone, ask, positions)
        return {
            **ranking.to_dict(),
            "items": [{**item.to_dict(), "why": near} for item, near in zip(ranking, why, strict=True)],
            "milliseconds": seconds * 1e3,
            "network_tries": tries,
        }

    def _why(self, phone: Recommender, ask: Ask, listed: NDArray[np.intp]) -> list[list[dict[str, Any]]]:
        """For each item the nearest events among those that the graph reads, by cosine of the item rows."""
        bundle = phone.bundle
        events = as_events(ask.history)
        at = ask.at
        places = bundle.catalogue.positions([event.item_id for event in events])
        read = [
            (index, place)
            for index, (event, place) in enumerate(zip(events, places.tolist(), strict=True))
            if place >= 0 and (at is None or event.timestamp is None or event.timestamp <= at)
        ][-bundle.inputs.length :]
        if not read or not len(listed):
            return [[] for _ in listed]
        own = np.array([place for _, place in read], dtype=np.intp)
        similar = cosines(bundle.tables["items"].rows(np.concatenate([listed, own])))
        near = similar[: len(listed), len(listed) :]
        found = []
        for row in near:
            told: dict[int, dict[str, Any]] = {}
            for place in np.argsort(-row, kind="stable").tolist():
                told.setdefault(
                    int(own[place]), {"index": read[place][0], "similarity": round(float(row[place]), 3)}
                )
                if len(told) == WHY:
                    break
            found.append(list(told.values()))
        return found


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
