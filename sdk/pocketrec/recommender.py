"""`Recommender`: a bundle, a history and an engine, behind three calls.

    unloaded ──▶ loading ──▶ ready ──▶ closed

`Recommender.open` returns in `ready`, or raises. Everything may be called from many threads: lists are made
side by side, records one after the other. `close` waits for calls that are under way, and any call after it
raises `PocketrecError` with the code `closed`. A call with a `deadline` or a `cancel` ends early when it has
to, with `StoppedError`; it changes nothing then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketrec.bundle import Bundle
from pocketrec.catalogue import ID_COLUMN
from pocketrec.engines import Engine, available_engines, load_engine
from pocketrec.errors import DataError, PocketrecError
from pocketrec.events import Event, HistoryItem, as_events, check_text, check_time
from pocketrec.gate import Calls, Gate, State, Stop
from pocketrec.history import History
from pocketrec.incremental import StoredHistory
from pocketrec.inputs import Known
from pocketrec.install_state import is_installed
from pocketrec.ranking import Ranking, Recommendation, ScoreVector, best_allowed, distinct, member, top_k
from pocketrec.request import Request, check_k

FloatArray = NDArray[np.float32]


class Recommender:
    """Ranks a catalogue for a history, offline. Make one with `Recommender.open`.

    Attributes:
        bundle: the open bundle; its manifest and catalogue may be read, it is closed with the recommender.
        engine: name of the engine that runs the graph.
        history: the stored history, for what goes beyond the calls here: `set_recording`, `import_lines`,
            `erase`.
    """

    def __init__(self, on_state: Callable[[State], None] | None = None) -> None:
        self._gate = Gate(on_state)
        self._borrowed = False  # bundle and engine belong to another recommender

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        history: str | Path | History = ":memory:",
        engine: str | None = None,
        *,
        public_keys: Sequence[bytes] = (),
        threads: int = 1,
        verified: str | Path | None = None,
        on_state: Callable[[State], None] | None = None,
    ) -> Recommender:
        """Verify and map the bundle, open the history, load the engine and run it once.

        Args:
            bundle: directory or stored ZIP; or a directory of versions that `pocketrec.install` made, for
                the live one (`open_installed`).
            history: file of this person's history, made when absent; ":memory:" keeps it in memory; or a
                `History` that the caller made, with a key or retention of its own (it is closed with the
                recommender; when opening fails, it stays open).
            engine: `onnxruntime`, `executorch` or `numpy`; None takes the first of these that is usable here.
            public_keys: one of them (PEM or 32 raw bytes) must have signed the bundle; none: the signature is
                not checked.
            threads: threads that the engine may use for one list.
            verified: a private directory in which to note that a bundle was verified, so that it opens sooner
                the next time; read `pocketrec.verified` first.
            on_state: called with `loading`, `ready` and `closed` when they are reached; must not close.

        Raises:
            BundleError: the bundle is missing, damaged, hostile, too new or not signed by one of the keys.
            HistoryError: the history cannot be used.
            PocketrecError: `engine-unavailable`, or `engine-failed` when the first run fails.
        """
        if is_installed(bundle):
            from pocketrec.install_versions import open_installed

            return open_installed(
                bundle,
                history,
                engine,
                public_keys=public_keys,
                threads=threads,
                verified=verified,
                on_state=on_state,
            )
        made = cls(on_state)
        made._load(bundle, history, engine, public_keys, threads, verified)
        return made

    def for_history(self, history: str | Path | History) -> Recommender:
        """A recommender for another person, over the same open bundle and engine.

        It costs the opening of a history and no more. Close it before this one; its `close` lets go of its
        history alone.

        Raises:
            HistoryError: the history cannot be used.
            PocketrecError: `closed`.
        """
        with self._ready():
            made = Recommender()
            made._gate.move("loading")
            made.bundle, made._engine, made.engine = self.bundle, self._engine, self.engine
            made._borrowed = True
            made._keep(history if isinstance(history, History) else History(history))
            made._gate.move("ready")
            return made

    @property
    def state(self) -> State:
        """Where in its life the recommender is."""
        return self._gate.state

    @property
    def calls(self) -> Calls:
        """How many calls are under way, came back, failed or were stopped."""
        return self._gate.calls

    def record(self, item_id: str, event: str = "", timestamp: int | None = None) -> Event | None:
        """Append an event to the history; durable when it returns. No timestamp means now.

        An item that the catalogue lacks is recorded too: the next catalogue may have it. None comes back, and
        nothing is stored, when this person opted out (`History.set_recording`).
        """
        with self._ready():
            return self.history.record(item_id, event, timestamp)

    def events(self) -> list[Event]:
        """The stored history, oldest first."""
        with self._ready():
            return self.history.events()

    def recommend(
        self,
        k: int = 10,
        *,
        candidates: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        filter_seen: bool = True,
        at: int | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Ranking:
        """`rank` over the stored history."""
        stop = Stop(deadline, cancel)
        request = Request.of(k, candidates, exclude, filter_seen, at)
        with self._ready():
            stop.check()
            if request.at is None:
                return self._rank(self._stored.known(), request, stop)
            return self._rank(self._known(self.history.events(), request.at), request, stop)

    def rank(
        self,
        history: Iterable[HistoryItem],
        k: int = 10,
        *,
        candidates: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        filter_seen: bool = True,
        at: int | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Ranking:
        """The k best items for a history; changes nothing and reads no stored history.

        Args:
            history: oldest first: item ids, `Event`s, or `(item_id, event, timestamp)`. Items that the
                catalogue lacks are skipped and counted.
            k: at least 1; fewer items come back when fewer are left.
            candidates: rank only these; None ranks the whole catalogue, an empty list gives an empty ranking.
            exclude: never these; ids that the catalogue lacks do no harm.
            filter_seen: leave out every item of the history.
            at: Unix seconds; later events are ignored, as if the list were asked for at that time.
            deadline: seconds that the call may take; looked at between its stages (history, graph, scan,
                top-k), so that it may end late by the longest of them.
            cancel: ends the call, from any thread, when it is set; looked at as often.

        Returns:
            Best first, equal scores in catalogue order. With no known item in the history: by the popularity
            prior, and `fallback` is set.

        Raises:
            DataError: `k-invalid`, `candidate-unknown`, or a history that holds something else than events.
            StoppedError: `deadline-exceeded`, `cancelled`.
        """
        stop = Stop(deadline, cancel)
        # Before the gate: the caller's iterables run the caller's code, which may call us, or close.
        request = Request.of(k, candidates, exclude, filter_seen, at)
        events = as_events(history)
        with self._ready():
            return self._rank(self._known(events, request.at), request, stop)

    def similar_items(self, item_id: str, k: int = 10) -> Ranking:
        """The k items whose rows point most nearly in the direction of this item's (cosine), itself left out.

        Raises:
            DataError: `item-unknown`, `k-invalid`.
        """
        k = check_k(k)
        with self._ready():
            position = self.bundle.catalogue.position(check_text(item_id, "item id"))
            if position is None:
                raise DataError(
                    f"the catalogue has no item {item_id!r}.",
                    code="item-unknown",
                    remedy="Use an id of this bundle's catalogue.",
                )
            banned = self.bundle.catalogue.with_retired(np.array([position]))
            best, scores = self.bundle.tables["items"].nearest(position, k, banned=banned)
            return Ranking(self._recommendations(best, scores), fallback=False, skipped=0, engine="")

    def scores(self, history: Iterable[HistoryItem], at: int | None = None) -> ScoreVector:
        """Raw scores of the whole catalogue in catalogue order, float32 [n]; nothing is filtered.

        It is an array with two notes: `fallback` (these are the popularity prior) and `skipped`.
        """
        events = as_events(history)
        with self._ready():
            known = self._known(events, at)
            return ScoreVector.of(self._scores(known), fallback=not len(known), skipped=known.skipped)

    def forget(self, item_id: str) -> int:
        """Delete every stored event of an item, beyond recovery; returns how many there were."""
        with self._ready():
            try:
                return self.history.forget(item_id)
            finally:
                self._stored.drop()

    def clear(self) -> int:
        """Delete the stored history, beyond recovery; returns how many events there were."""
        with self._ready():
            try:
                return self.history.clear()
            finally:
                self._stored.drop()

    def export(self, path: str | Path) -> int:
        """Write the stored history as JSON lines; returns how many events there were."""
        with self._ready():
            return self.history.export(path)

    def close(self) -> None:
        """Refuse further calls, wait for those under way, then let go of engine, history and bundle.

        May be called many times and from many threads; each call returns when everything is let go of.
        """
        self._gate.close(self._release)

    def __enter__(self) -> Recommender:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _load(
        self,
        bundle: str | Path,
        history: str | Path | History,
        engine: str | None,
        public_keys: Sequence[bytes],
        threads: int,
        verified: str | Path | None,
    ) -> None:
        self._gate.move("loading")
        opened: list[Bundle | History | Engine] = []
        try:
            self.bundle = Bundle.open(bundle, public_keys, verified=verified)
            opened.append(self.bundle)
            self._engine = _load_engine(engine, self.bundle, threads)
            opened.append(self._engine)
            self.engine = self._engine.name
            graph = self.bundle.manifest.graph
            # Once, on nothing: first-run costs are paid here, and a graph that cannot run is found out here.
            self._engine.run(
                np.zeros((1, graph.length, graph.dim), np.float32), np.zeros((1, graph.length), np.float32)
            )
            if isinstance(history, History):
                self._keep(history)
            else:
                self._keep(History(history))
                opened.append(self.history)
            self._gate.move("ready")
        except BaseException:
            self._gate.close(lambda: None)
            for part in reversed(opened):
                part.close()
            raise

    def _keep(self, history: History) -> None:
        self.history = history
        self._stored = StoredHistory(history, lambda events: self._known(events, None))

    def _release(self) -> None:
        if self._borrowed:
            self.history.close()
            return
        self._engine.close()
        self.history.close()
        self.bundle.close()

    def _ready(self) -> AbstractContextManager[None]:
        return self._gate.call()

    def _rank(self, known: Known, request: Request, stop: Stop) -> Ranking:
        among = None if request.candidates is None else self._candidates(request.candidates)
        banned = self.bundle.catalogue.with_retired(self._positions(request.exclude))
        if request.filter_seen:
            banned = distinct(np.concatenate([banned, known.positions]))
        fallback = not len(known)
        if among is not None and not len(among):
            return Ranking([], fallback=fallback, skipped=known.skipped, engine="")
        best, scores = self._best(known, request.k, banned, among, stop)
        stop.check()
        items, engine = self._recommendations(best, scores), "" if fallback else self.engine
        return Ranking(items, fallback=fallback, skipped=known.skipped, engine=engine)

    def _known(self, events: list[Event], at: int | None) -> Known:
        if at is not None:
            limit = check_time(at)
            events = [event for event in events if event.timestamp is None or event.timestamp <= limit]
        return self.bundle.inputs.known(events, self.bundle.catalogue)

    def _best(
        self, known: Known, k: int, banned: NDArray[np.intp], among: NDArray[np.intp] | None, stop: Stop
    ) -> tuple[NDArray[np.intp], FloatArray]:
        """Positions and scores of the k best that are not `banned`, of the catalogue or of `among`."""
        stop.check()
        if not len(known):
            prior = self.bundle.catalogue.prior
            if among is None:
                best = best_allowed(prior, k, banned)
            else:
                allowed = among[~member(among, banned)]
                best = allowed[top_k(prior[allowed], k)]
            return best, prior[best]
        query = self._engine.run(*self.bundle.inputs.fuse(known))
        stop.check()
        return self.bundle.tables["items"].best(query, k, banned=banned, among=among)

    def _scores(self, known: Known) -> FloatArray:
        """Scores of the catalogue; a fresh array."""
        if not len(known):
            return np.array(self.bundle.catalogue.prior)
        return self.bundle.tables["items"].scores(self._engine.run(*self.bundle.inputs.fuse(known)))

    def _candidates(self, ids: list[str]) -> NDArray[np.intp]:
        """Positions of the candidates, ascending, each once."""
        positions = self.bundle.catalogue.positions(ids)
        if (positions < 0).any():
            unknown = [item for item, position in zip(ids, positions.tolist(), strict=True) if position < 0]
            raise DataError(
                f"{len(unknown)} of the candidates are not in the catalogue, such as {unknown[0]!r}.",
                code="candidate-unknown",
                remedy="Give ids of this bundle's catalogue.",
            )
        return distinct(positions)

    def _positions(self, ids: Collection[str]) -> NDArray[np.intp]:
        """Positions of the ids that the catalogue has, ascending, each once."""
        if not ids:
            return np.empty(0, dtype=np.intp)
        positions = self.bundle.catalogue.positions(list(ids))
        return distinct(positions[positions >= 0])

    def _recommendations(self, positions: NDArray[np.intp], scores: FloatArray) -> list[Recommendation]:
        catalogue = self.bundle.catalogue
        texts = {name: catalogue.texts(name, positions) for name in (ID_COLUMN, *catalogue.columns)}
        found = []
        for at, (position, score) in enumerate(zip(positions.tolist(), scores.tolist(), strict=True)):
            display = {name: texts[name][at] for name in catalogue.columns}
            title = display.get("title", "")
            found.append(Recommendation(texts[ID_COLUMN][at], score, title, position, display))
        return found


def _load_engine(name: str | None, bundle: Bundle, threads: int) -> Engine:
    if name is not None:
        return load_engine(name, bundle, threads)
    usable = available_engines(bundle)
    if not usable:
        raise PocketrecError(
            "none of the bundle's engines is usable here.",
            code="engine-unavailable",
            remedy=f"Install one of {sorted(bundle.manifest.engines)}.",
        )
    return load_engine(usable[0], bundle, threads)
