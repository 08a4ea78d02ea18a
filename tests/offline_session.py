"""The whole runtime in a process of its own, for test_nothing_leaves: it says what it did and what it
touched.

    python offline_session.py BUNDLE FOLDER ENGINE [CONTROL]

CONTROL opens a socket in the middle, so that the traps can be seen to work: `python` through Python, `native`
behind Python's back.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

NETWORK_EVENTS = (
    "socket.",
    "http.",
    "urllib.",
    "ftplib.",
    "smtplib.",
    "imaplib.",
    "poplib.",
    "telnetlib.",
    "nntplib.",
)

touched: list[str] = []
telemetry: dict[str, str | None] = {}


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(NETWORK_EVENTS):
        touched.append(event)
    if event == "import" and arguments[0] == "onnxruntime":
        telemetry.setdefault("onnxruntime", os.environ.get("ORT_DISABLE_TELEMETRY"))


sys.addaudithook(watch)


def session(bundle: str, folder: Path, engine: str) -> dict[str, Any]:
    from pocketrec import History, Recommender
    from pocketrec.verify import verify

    checked = verify(bundle)
    file = folder / f"{engine}.db"
    with Recommender.open(bundle, History(file, max_events=8), engine) as rec:
        ids = [rec.bundle.catalogue.item_id(position) for position in range(20)]
        lists = [rec.recommend(5).to_dict()]
        for item in ids[:12]:
            rec.record(item, "view", 1_700_000_000)
        rec.record(ids[0], "buy")
        lists.append(rec.recommend(5, exclude=ids[:3]).to_dict())
        lists.append(rec.rank(ids[3:6], 5, candidates=ids).to_dict())
        lists.append(rec.similar_items(ids[0], 5).to_dict())
        rec.scores(ids[:2])
        rec.export(folder / f"{engine}.jsonl")
        rec.forget(ids[5])
        rec.clear()
        rec.history.import_lines(folder / f"{engine}.jsonl")
    return {"verified": checked.ok, "lists": lists}


def main() -> None:
    bundle, folder, engine, *control = sys.argv[1:]
    said = session(bundle, Path(folder), engine)
    if control == ["python"]:
        import socket

        socket.socket().close()
    elif control == ["native"]:
        import ctypes

        os.close(ctypes.CDLL(None).socket(2, 1, 0))
    said |= {"touched": touched, "telemetry": telemetry, "modules": sorted(sys.modules)}
    sys.stdout.write(json.dumps(said) + "\n")


main()
