"""A password as PostgreSQL keeps it, which takes little to log in with."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64encode


def verifier(password: str) -> str:
    """Return what PostgreSQL keeps of a password (RFC 5803), made by one round of hashing instead of 4,096.

    libpq hashes as often as the server says, in each connection, and repmgrd alone makes several a second.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client, server = (hmac.digest(salted, key, "sha256") for key in (b"Client Key", b"Server Key"))
    stored = hashlib.sha256(client).digest()
    shown = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256$1:{shown[0]}${shown[1]}:{shown[2]}"
