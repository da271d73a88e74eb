"""``python -m repmgr_hooks``."""

from repmgr_hooks.cli import main

main()
