"""Results that come one by one and may be interrupted: each is on disk as soon as it is there."""

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

from relaysim import io


class Kept:
    """Rows of numbers and names, those that a folder holds already and those added since.

    They are lines of JSON in the file `runs.jsonl`, beside the settings that they belong to. A line is added
    at once; one that a kill left half written counts for nothing.

    Args:
      folder: there or not; None keeps the rows in memory alone.
      settings: what all rows have in common, to compare with what is there; of plain numbers, names and
        lists.

    Raises:
      ValueError: where the folder holds rows of other settings; it says in what they differ.
      OSError: where the folder cannot be written to.
    """

    def __init__(self, folder: Path | str | None, settings: dict[str, Any]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._lock = Lock()
        self._path = None if folder is None else Path(folder) / "runs.jsonl"
        if self._path is None:
            return
        about = self._path.with_name("settings.json")
        settings = json.loads(json.dumps(settings))
        if about.exists():
            _check_same(about, settings, json.loads(about.read_text()))
        else:
            with io.whole(about) as beside:
                beside.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        if self._path.exists():
            whole = self._path.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]
            os.truncate(self._path, len(whole))
            self.rows = [json.loads(line) for line in whole.decode().splitlines()]

    def add(self, **row: Any) -> dict[str, Any]:
        """From any thread. Returns the row as it will be read again."""
        line = json.dumps(row, ensure_ascii=False)
        row = json.loads(line)
        with self._lock:
            self.rows.append(row)
            if self._path:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
                    file.flush()
                    os.fsync(file.fileno())
        return row

    def find(self, **values: Any) -> dict[str, Any] | None:
        """The row with these values, if there is one."""
        with self._lock:
            return next((row for row in self.rows if values.items() <= row.items()), None)


def _check_same(path: Path, settings: dict[str, Any], saved: dict[str, Any]) -> None:
    for name in settings | saved:
        if settings.get(name) != saved.get(name):
            was, expected = saved.get(name, "missing"), settings.get(name, "missing")
            raise ValueError(f"{path} has {name} {was}, expected {expected}: choose another folder")
