"""A former primary that runs on is stopped, and made a standby again."""
