"""``python -m repmgr_hooks``."""

from repmgr_hooks.hook import main

main()
