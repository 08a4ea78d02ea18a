"""Every operation of a history is measured, plain and encrypted."""

from __future__ import annotations

import json

import pytest

from pocketrec_tools.history_cost import main
from support import require_package


def test_everything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    require_package("sqlcipher3", "pip install 'pocketrec[encryption]'")
    main(["--events", "50", "--rounds", "1"])
    said = json.loads(capsys.readouterr().out)
    operations = {"create", "open", "record", "events", "forget", "bytes"}
    assert set(said["plain"]) == operations
    assert set(said["encrypted"]) == operations | {"change_key"}
    assert all(value > 0 for part in ("plain", "encrypted") for value in said[part].values())
