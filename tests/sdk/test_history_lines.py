"""Export and import: the same history again, whatever is in it; and lines that are none."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from history_files import refused
from pocketrec.events import MAX_TIME, Event
from pocketrec.history import History

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
events = st.lists(
    st.builds(
        Event,
        texts.filter(bool),
        texts,
        st.one_of(st.none(), st.integers(-MAX_TIME, MAX_TIME)),
    ),
    max_size=10,
)


@given(events=events)
def test_what_was_exported_can_be_imported(events: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as folder, History() as history, History() as again:
        out = Path(folder) / "out.jsonl"
        history.record_many(events)
        assert history.export(out) == len(events)
        assert again.import_lines(out) == len(events)
        assert again.events() == history.events() == events
        assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "{}",
        '{"item_id": "a", "event": ""}',
        '{"item_id": "", "event": "", "timestamp": null}',
        '{"item_id": "a", "event": "", "timestamp": 1.5}',
        '{"item_id": "a", "event": "", "timestamp": 1, "more": 1}',
        '{"item_id": 7, "event": "", "timestamp": 1}',
        "[" * 9000,
        '{"item_id": "' + "x" * 20_000 + '", "event": "", "timestamp": 1}',
    ],
    ids=range(10),
)
def test_a_line_that_is_no_event_imports_nothing(tmp_path: Path, line: str) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"item_id": "a", "event": "", "timestamp": 1}\n' + line + "\n", encoding="utf-8")
    with History() as history:
        with pytest.raises(Exception, match="line 2"):
            history.import_lines(file)
        assert refused(lambda: history.import_lines(file)) == "import-failed"
        assert refused(lambda: history.import_lines(tmp_path / "none")) == "import-failed"
        assert history.events() == []
