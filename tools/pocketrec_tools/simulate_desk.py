"""What the simulator's page shows: open bundles, people with their events, lists and what lies near in them.

    desk = Desk.open("bundle/", "data/", [])
    desk.rank(Ask(phone=0, history=[("B004756YJA", "view", None)]))     # JSON for the page

It keeps no history: every question brings its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pocketrec.events import as_events
from pocketrec.recommender import Recommender
from pocketrec_export.data import Dataset, load_dataset
from pocketrec_tools.simulate_guard import Refusal, no_network
from pocketrec_tools.simulate_policies import cosines
from pocketrec_tools.simulate_run import read_run

WHY = 2
MOST_EVENTS = 2000
LISTED = 50


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
            raise Refusal(404, "http-404", "there is no such thing.")
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
            raise Refusal(404, "http-404", "there is no such thing.")
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
