"""Write config/config.schema.json again, from this checkout: python -m tests.build.schema"""

from __future__ import annotations

import json
from pathlib import Path

from repmgr_hooks.config import json_schema
from repmgr_hooks.handlers import built_in

CONFIG = Path(__file__).resolve().parents[2] / "config"
SHIPPED = CONFIG / "config.schema.json"


def text() -> str:
    """Return what is shipped: the schema without any plug-in."""
    return json.dumps(json_schema.schema((CONFIG / "README.md").read_text(), built_in()), indent=2) + "\n"


if __name__ == "__main__":
    SHIPPED.write_text(text())
