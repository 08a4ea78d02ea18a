"""pocketrec on the device: open a bundle, record events, ask for a ranked list. No network, no torch.

    from pocketrec import Recommender

    with Recommender.open("bundle/", history="me.db") as rec:
        rec.record("B004756YJA", event="view")
        for r in rec.recommend(k=10):
            print(r.item_id, r.score, r.title)

Importing this package loads nothing; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketrec.errors import BundleError, DataError, PocketrecError
    from pocketrec.events import Event
    from pocketrec.gate import StoppedError
    from pocketrec.history import History, HistoryError
    from pocketrec.install_versions import Installed, install, installed, open_installed, roll_back
    from pocketrec.ranking import Ranking, Recommendation
    from pocketrec.recommender import Recommender

__version__ = "0.1.0"

_HOME = {
    "BundleError": "errors",
    "DataError": "errors",
    "Event": "events",
    "History": "history",
    "HistoryError": "history",
    "Installed": "install_versions",
    "PocketrecError": "errors",
    "Ranking": "ranking",
    "Recommendation": "ranking",
    "Recommender": "recommender",
    "StoppedError": "gate",
    "install": "install_versions",
    "installed": "install_versions",
    "open_installed": "install_versions",
    "roll_back": "install_versions",
}

__all__ = [
    "BundleError",
    "DataError",
    "Event",
    "History",
    "HistoryError",
    "Installed",
    "PocketrecError",
    "Ranking",
    "Recommendation",
    "Recommender",
    "StoppedError",
    "__version__",
    "install",
    "installed",
    "open_installed",
    "roll_back",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'pocketrec' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"pocketrec.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
