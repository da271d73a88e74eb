"""The kernel's packet filter: pure text and the few calls that it takes."""
