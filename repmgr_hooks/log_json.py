"""The log as a collector reads it."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from repmgr_hooks.log import ABOUT, MOST_OF_LINE, hints_of
from repmgr_hooks.text import printable


class Json(logging.Formatter):
    """One object a line: ``time``, ``level``, ``message``, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        what = {key: value for key, value in ABOUT.get().items() if key != "named"}
        line = {
            "time": time,
            "level": record.levelname.lower(),
            **what,
            "message": printable(record.getMessage(), MOST_OF_LINE),
        }
        if hints := hints_of(record):
            line["hint"] = "\n".join(hints)
        if record.exc_info:
            line["traceback"] = printable(self.formatException(record.exc_info), MOST_OF_LINE)
        return json.dumps(line)
