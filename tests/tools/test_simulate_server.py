"""The page's server from outside: who is let in, what is refused and how, and whose lists it answers."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_data import tiny_rows, write_rows

from pocketrec import DataError, Recommender
from pocketrec_tools.simulate_desk import Desk
from pocketrec_tools.simulate_guard import MAX_BODY, POLICY, no_network
from pocketrec_tools.simulate_screenshots import served
from pocketrec_tools.simulate_server import ASSETS, PAGE, PageServer
from tiny_bundle import item_id, write_tiny_bundle


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("server")
    write_tiny_bundle(root / "a")
    write_rows(root / "data", tiny_rows(8))
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[PageServer]:
    with served(Desk.open(root / "a", root / "data", [], "numpy")) as server:
        yield server


def ask(
    server: PageServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str | None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case and body; with the token and our own host unless told otherwise."""
    given: dict[str, str | None] = {"cookie": f"pocketrec-{server.port}={server.token}"}
    if body is not None:
        given["content-type"] = "application/json"
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    sent = {name: value for name, value in given.items() if value is not None}
    connection.request(method, path, body, sent)
    answer = connection.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, found, answer.read()


def rank(server: PageServer, **question: Any) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"phone": 0, "history": [], **question}).encode()
    status, _, answer = ask(server, "/api/rank", "POST", body)
    return status, json.loads(answer)


def test_it_listens_on_loopback_alone(server: PageServer) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    assert server._socket.getsockname()[0] == "127.0.0.1"


def test_the_token_opens_the_page_and_leaves_the_address(server: PageServer) -> None:
    status, headers, _ = ask(server, f"/?token={server.token}", cookie=None)
    assert (status, headers["location"]) == (303, "/")
    assert f"pocketrec-{server.port}={server.token}" in headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= set(headers["set-cookie"].split("; "))
    status, headers, page = ask(server, "/")
    assert status == 200
    assert server.token.encode() not in page


@pytest.mark.parametrize("path", ["/", "/api/info", "/api/users/0", "/app.js", "/report", "/plots/time.svg"])
@pytest.mark.parametrize("cookie", [None, "pocketrec-1=x", "garbage", "é"])
def test_without_the_token_there_is_nothing(server: PageServer, path: str, cookie: str | None) -> None:
    status, _, answer = ask(server, path, cookie=cookie)
    assert status == 403
    assert b"token-wrong" in answer
    near = server.token[:-1] + ("A" if server.token[-1] != "A" else "B")
    assert ask(server, path, cookie=f"pocketrec-{server.port}={near}")[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil:80", ""])
def test_another_name_for_this_address_is_refused(server: PageServer, host: str) -> None:
    status, _, answer = ask(server, "/api/info", host=host)
    assert status in (400, 421)
    assert b"users" not in answer


def test_localhost_is_this_address(server: PageServer) -> None:
    assert ask(server, "/api/info", host=f"localhost:{server.port}")[0] == 200


def test_every_answer_says_what_a_browser_may_load(server: PageServer) -> None:
    for path, cookie in (
        ("/", True),
        ("/", False),
        ("/api/info", True),
        ("/nothing", True),
        ("/app.js", True),
    ):
        _, headers, _ = ask(
            server, path, cookie=None if not cookie else f"pocketrec-{server.port}={server.token}"
        )
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
        assert "uvicorn" not in headers.get("server", "")


def test_the_page_has_no_inline_script_and_names_only_its_own_files() -> None:
    assert {entry.name for entry in PAGE.iterdir()} == {*ASSETS, "index.html", "error.html"}
    for entry in PAGE.iterdir():
        text = entry.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text
        if entry.name.endswith(".html"):
            assert "style=" not in text
            assert "onclick" not in text
            assert text.count("<script") == text.count('<script type="module" src="/')


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"origin": "http://evil.example"}, b"{}", 403),
        ({"origin": "null"}, b"{}", 403),
        ({"content_type": "text/plain"}, b"{}", 415),
        ({"content_type": None}, b"{}", 415),
        ({"content_length": str(MAX_BODY + 1)}, b"", 413),
        ({"content_length": "-1"}, b"", 413),
        ({}, b"not json", 400),
        ({}, b"[]", 400),
        ({}, b'{"phone": 0, "history": [], "more": 1}', 400),
        ({}, b'{"phone": "0", "history": []}', 400),
        ({}, b'{"phone": 9, "history": []}', 404),
        ({}, b'{"phone": 0, "history": [["a", "b"]]}', 400),
        ({}, b'{"phone": 0, "history": [["", "", 1]]}', 400),
        ({}, b'{"phone": 0, "history": [["a", "", 1e300]]}', 400),
        ({}, b'{"phone": 0, "history": [["\\ud800", "", 1]]}', 400),
        ({}, b'{"phone": 0, "history": [], "k": 0}', 400),
        ({}, b'{"phone": 0, "history": [], "at": 99999999999999999999}', 400),
    ],
)
def test_hostile_questions_are_typed_errors(
    server: PageServer, headers: dict[str, str | None], body: bytes, status: int
) -> None:
    found, _, answer = ask(server, "/api/rank", "POST", body, **headers)
    assert found in (status, 400)
    if found == status:
        error = json.loads(answer)["error"]
        assert set(error) == {"code", "message"}
        assert "Traceback" not in str(error)
    assert rank(server)[0] == 200  # and it goes on


@pytest.mark.parametrize(
    "path",
    ["/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/index.html", "/error.html", "/plots/..%2f..%2fx.svg",
     "/api/users/-1", "/api/users/99999999999999999999", "/api/users?first=-1", "/app.js%00"],
)  # fmt: skip
def test_addresses_that_are_not_there(server: PageServer, path: str) -> None:
    status, headers, answer = ask(server, path)
    assert status in (400, 404)
    assert b"root:" not in answer
    assert ("json" if path.startswith("/api") else "html") in headers["content-type"]


def test_the_error_page_takes_no_markup(server: PageServer) -> None:
    _, _, answer = ask(server, "/%3Cscript%3Ealert(1)%3C/script%3E")
    assert b"<script>alert" not in answer
    status, _, answer = ask(server, "/api/users?search=%3Cb%3E")
    assert (status, json.loads(answer)["total"]) == (200, 0)


def test_bytes_that_are_no_request_do_not_end_it(server: PageServer) -> None:
    for raw in (b"\x00\xff\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"POST /api/rank HTTP/1.1\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw_socket:
            raw_socket.sendall(raw)
    assert ask(server, "/api/info")[0] == 200


def test_lists_are_those_of_the_runtime(root: Path, server: PageServer) -> None:
    history = [[item_id(1), "view", 100], [item_id(2), "buy", 200], ["unknown", "", None]]
    with Recommender.open(root / "a", engine="numpy") as recommender:
        for question in ({}, {"at": 150}, {"k": 3}, {"offline": True}):
            asked = {key: value for key, value in question.items() if key != "offline"}
            wanted = recommender.rank([tuple(event) for event in history], **asked).to_dict()  # type: ignore[arg-type,misc]
            status, found = rank(server, history=history, **question)
            assert status == 200
            why = [item.pop("why") for item in found["items"]]
            assert found["items"] == wanted["items"]
            assert found["network_tries"] == (0 if question.get("offline") else None)
            for near in why:
                assert {entry["index"] for entry in near} <= {0, 1}
                assert near == sorted(near, key=lambda entry: -entry["similarity"])
            assert {len(near) for near in why} == ({1} if "at" in question else {2})


def test_users_are_found_and_their_events_are_the_datas(server: PageServer) -> None:
    found = json.loads(ask(server, "/api/users?search=U3")[2])
    assert [user["id"] for user in found["users"]] == ["u3"]
    events = json.loads(ask(server, f"/api/users/{found['users'][0]['row']}")[2])["events"]
    rows = sorted((row for row in tiny_rows(8) if row[0] == "u3"), key=lambda row: row[2])
    assert [(e["item_id"], e["time"], e["event"]) for e in events] == [row[1:] for row in rows]


def test_offline_refuses_the_network_of_this_thread_and_counts() -> None:
    with no_network() as tries:
        for reach in (
            lambda: socket.create_connection(("192.0.2.1", 9), timeout=1),
            lambda: socket.getaddrinfo("example.invalid", 80),
        ):
            with pytest.raises(OSError, match="offline"):
                reach()
    assert tries.count == 2
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))  # afterwards it is as it was
    listening.close()


def test_a_port_that_is_taken(root: Path, server: PageServer) -> None:
    desk = Desk.open(root / "a", root / "data", [], "numpy")
    try:
        with pytest.raises(DataError) as refused:
            PageServer(desk, server.port)
        assert refused.value.code == "port-taken"
    finally:
        desk.close()


def test_the_command_prints_an_address_that_opens_it(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "here")
    arguments = ["simulate", "--serve", "a", "data", "--no-open", "--engine", "numpy"]
    before = set(tmp_path.rglob("*"))
    process = subprocess.Popen(
        [sys.executable, "-m", "pocketrec", *arguments],
        cwd=tmp_path / "here",
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        port = int(url.split(":")[2].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", url[url.index("/?") :])
        assert connection.getresponse().status == 303
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert set(tmp_path.rglob("*")) == before  # it keeps nothing


def test_a_folder_without_a_run(root: Path) -> None:
    with pytest.raises(DataError) as refused:
        Desk.open(root / "data", None, [])
    assert refused.value.code == "run-missing"
