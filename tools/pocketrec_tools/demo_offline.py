"""A person on a device without network: events are recorded, the list changes.

    session = rank_offline(bundle, "me.db", events, (0, 4))     # in a process that reaches no network
    session.guard                                               # how that was made sure

On Linux, and where it is allowed, the process has a network namespace of its own with nothing in it.
Elsewhere an audit hook refuses every connection and every look-up of a name that Python code asks for. Either
way the process tries to reach an address first, and says what came of it.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketrec_tools.processes import run_python

NAMESPACE = "a network namespace of its own, with no interface that is up"
HOOK = "an audit hook that refuses connections"
_UNSHARE = (["unshare", "--net"], ["unshare", "--map-root-user", "--net"])  # as root; as anybody
_PROBE = ("192.0.2.1", 9)  # an address that RFC 5737 keeps for documentation
_REFUSED = ("socket.connect", "socket.sendto", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname")


@dataclass(frozen=True)
class Listed:
    """A list that was asked for, after so many recorded events.

    Attributes:
        events: how many were recorded before.
        fallback: whether it is the popularity prior.
        items: (item id, title, score), best first.
    """

    events: int
    fallback: bool
    items: list[tuple[str, str, float]]


@dataclass(frozen=True)
class Session:
    """What happened in the process without network.

    Attributes:
        engine: what ran the graph.
        guard: what kept the network away.
        probe: what came of trying to reach an address.
        lists: before, between and after the events.
    """

    engine: str
    guard: str
    probe: str
    lists: list[Listed]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def rank_offline(
    bundle: str | Path,
    history: str | Path,
    events: Sequence[tuple[str, str, int | None]],
    ask_after: Sequence[int],
    k: int = 5,
) -> Session:
    """Record `events` in the history of one person and ask for lists, where no network can be reached.

    Args:
        history: the person's file; what is in it is cleared.
        events: (item id, event, timestamp), oldest first.
        ask_after: ask for a list when so many of the events are recorded.
        k: items in a list.

    Raises:
        PocketrecError: `process-failed`, with what it said; also when the network could be reached.
    """
    prefix = _namespace()
    job = {
        "bundle": str(bundle),
        "history": str(history),
        "events": list(events),
        "ask_after": sorted(ask_after),
        "k": k,
        "guard": HOOK if prefix is None else NAMESPACE,
    }
    said = run_python("-m", "pocketrec_tools.demo_offline", given=json.dumps(job), prefix=prefix or ())
    found = json.loads(said.splitlines()[-1])
    lists = [
        Listed(entry["events"], entry["fallback"], [tuple(i) for i in entry["items"]])
        for entry in found["lists"]
    ]
    return Session(found["engine"], found["guard"], found["probe"], lists)


def _namespace() -> list[str] | None:
    """A command that gives what it runs a network of its own, if there is one that works here."""
    for command in _UNSHARE:
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode
        ):
            return command
    return None


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _REFUSED:
        raise PermissionError(f"{event}{arguments[1:]!r} is refused")


def _probe() -> str:
    """What trying to reach an address ends in; nothing is sent even where it works.

    Raises:
        RuntimeError: it could be reached.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_PROBE)
    except OSError as error:
        return f"{_PROBE[0]}: {error.strerror or error}"
    raise RuntimeError(f"{_PROBE[0]} can be reached; the network is not blocked")


def _session(job: dict[str, Any]) -> dict[str, Any]:
    from pocketrec import Recommender

    lists = []
    with Recommender.open(job["bundle"], history=job["history"]) as recommender:
        recommender.clear()
        for count in range(len(job["events"]) + 1):
            if count:
                recommender.record(*job["events"][count - 1])
            if count in job["ask_after"]:
                ranking = recommender.recommend(job["k"])
                items = [(item.item_id, item.title, item.score) for item in ranking]
                lists.append({"events": count, "fallback": ranking.fallback, "items": items})
        return {"engine": recommender.engine, "lists": lists}


def _main() -> None:
    job = json.load(sys.stdin)
    if job["guard"] == HOOK:
        sys.addaudithook(_refuse_network)
    probe = _probe()
    answer = {"guard": job["guard"], "probe": probe, **_session(job)}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main()
