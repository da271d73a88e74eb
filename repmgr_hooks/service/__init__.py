"""The resident service."""
