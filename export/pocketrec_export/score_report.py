"""What was found in a file of scores: what is used, and a count for every row that is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ScoresReport:
    """Counts; `str()` gives the text for a terminal.

    Every row is counted once: rows = used + blank_ids + bad_scores + bad_after + unknown_user_rows +
    unknown_item_rows + duplicate_rows + cut_rows + beyond_rows. The first reason, in this order, counts.

    Attributes:
        path: the file, or the directory of its parts.
        rows, used_rows: rows of the file, and those in lists.
        blank_ids, bad_scores, bad_after: rows without a user or item, whose score is no finite number, whose
            `after` is no whole number from 1.
        unknown_user_rows, unknown_item_rows: rows about users and items that the data do not have.
        duplicate_rows: rows that repeat a (user, after, item); the highest score counts.
        cut_rows: rows behind the end of a list.
        beyond_rows, beyond_lists: made after all events of a user or more; there is nothing to rank then.
        unknown_users, unknown_items: how many different ones, and the first few.
        unused_columns: columns that nothing reads.
        lists, held_out_lists: lists in use; those of them that saw events past the training part, or all of
            it, and serve evaluation alone.
        longest_list, mean_list: items.
        users, users_without_list: users with a training position, and those of them without a list for any.
        positions, positions_without_list: training positions, and those about which nothing is said.
    """

    path: str
    rows: int
    used_rows: int
    blank_ids: int
    bad_scores: int
    bad_after: int
    unknown_user_rows: int
    unknown_item_rows: int
    duplicate_rows: int
    cut_rows: int
    beyond_rows: int
    beyond_lists: int
    unknown_users: int
    unknown_items: int
    unknown_user_sample: tuple[str, ...]
    unknown_item_sample: tuple[str, ...]
    unused_columns: tuple[str, ...]
    lists: int
    held_out_lists: int
    longest_list: int
    mean_list: float
    users: int
    users_without_list: int
    positions: int
    positions_without_list: int

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def __str__(self) -> str:
        said = self.positions - self.positions_without_list
        lines = [
            f"{self.path}: {self.used_rows:,} of {self.rows:,} rows in {self.lists:,} lists "
            f"(on average {self.mean_list:.1f} items, at most {self.longest_list:,})",
            f"  training positions with a list: {said:,} of {self.positions:,}",
        ]
        notes = [
            (self.users_without_list, f"of {self.users:,} users have no list for training"),
            (self.held_out_lists, "lists saw the whole training part or more: they serve evaluation alone"),
            (self.blank_ids, "rows name no user or no item"),
            (self.bad_scores, "rows have a score that is no finite number"),
            (self.bad_after, "rows have an `after` that is no whole number from 1"),
            (self.unknown_user_rows, self._unknown("users", self.unknown_users, self.unknown_user_sample)),
            (self.unknown_item_rows, self._unknown("items", self.unknown_items, self.unknown_item_sample)),
            (self.duplicate_rows, "rows repeat a pair; its highest score counts"),
            (self.cut_rows, "rows are behind the end of their lists, see list_length"),
            (self.beyond_rows, f"rows of {self.beyond_lists:,} lists were made after a user's last event"),
        ]
        lines += [f"  {count:,} {what}" for count, what in notes if count]
        if self.unused_columns:
            lines.append(f"  not read: column {', '.join(map(repr, self.unused_columns))}")
        return "\n".join(lines)

    @staticmethod
    def _unknown(what: str, count: int, examples: tuple[str, ...]) -> str:
        named = ", ".join(map(repr, examples)) + (", …" if count > len(examples) else "")
        return f"rows are about {count:,} {what} that the data do not have [{named}]"
