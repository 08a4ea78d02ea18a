"""Recording and ranking where no network can be reached."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pocketrec_tools.demo_offline as module
from pocketrec import Recommender
from pocketrec.errors import PocketrecError
from pocketrec_tools.demo_offline import HOOK, NAMESPACE, rank_offline
from support import not_applicable
from tiny_bundle import item_id, write_tiny_bundle

EVENTS: list[tuple[str, str, int | None]] = [(item_id(3), "view", 100), (item_id(30), "buy", 200)]


@pytest.mark.parametrize("guard", [NAMESPACE, HOOK])
def test_the_lists_are_those_of_the_runtime(
    guard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if guard == NAMESPACE and module._namespace() is None:
        not_applicable("this system gives nobody a network namespace")
    if guard == HOOK:  # as where there are no namespaces
        monkeypatch.setattr(module, "_namespace", lambda: None)
    bundle = write_tiny_bundle(tmp_path / "b")
    session = rank_offline(bundle, tmp_path / "me.db", EVENTS, (0, 1, 2), k=4)
    assert session.guard == guard
    assert "192.0.2.1" in session.probe
    assert "unreachable" in session.probe or "refused" in session.probe
    assert session.engine == "numpy"
    assert [listed.events for listed in session.lists] == [0, 1, 2]
    assert [listed.fallback for listed in session.lists] == [True, False, False]
    with Recommender.open(bundle) as recommender:
        for listed in session.lists:
            wanted = recommender.rank(EVENTS[: listed.events], 4)
            assert listed.items == [(item.item_id, item.title, item.score) for item in wanted]
    with Recommender.open(bundle, history=tmp_path / "me.db") as recommender:
        assert [(e.item_id, e.event, e.timestamp) for e in recommender.events()] == EVENTS


def test_an_earlier_history_is_cleared(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b")
    for _ in range(2):
        session = rank_offline(bundle, tmp_path / "me.db", EVENTS, (0,))
        assert session.lists[0].fallback


REFUSED = """
import socket, sys, urllib.request
from pocketrec_tools.demo_offline import _refuse_network
sys.addaudithook(_refuse_network)
def tried(call):
    try:
        call()
    except Exception as error:
        return "refused" in str(error)
    return False
print(all([
    tried(lambda: socket.create_connection(("127.0.0.1", 9), timeout=1)),
    tried(lambda: socket.getaddrinfo("localhost", 80)),
    tried(lambda: urllib.request.urlopen("http://127.0.0.1:9/", timeout=1)),
    tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))),
]))
"""


def test_the_hook_refuses_connections_and_names() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


def test_a_network_that_can_be_reached_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROBE", ("127.0.0.1", 9))  # what every machine reaches
    with pytest.raises(RuntimeError, match="not blocked"):
        module._probe()


def test_what_went_wrong_in_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PocketrecError, match=r"none") as failed:
        rank_offline(tmp_path / "none", tmp_path / "me.db", EVENTS, (0,))
    assert failed.value.code == "process-failed"
