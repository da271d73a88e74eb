"""Stands for pg-backup-api 2.2, which the tests can get nowhere: what `repmgr standby clone` asks it, with its answers.

Barman does the work. Like the original (utility_controller.py, server_operation.py) it keeps an operation as a file
that says what is to be done and one that says how it ended, and runs it in a process of its own. Run as
``backup_api.py serve ADDRESS`` or, as that does, ``backup_api.py recovery SERVER OPERATION``.
"""

import json
import os
import re
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOME = Path("/var/lib/barman")
HOLD = "restores-wait"
"""As long as there is a file of this name, no restore begins: one is over sooner than a busy test can look."""
SHORT_CUTS = ("latest", "last", "oldest", "first", "last-failed")
"""All that 1.3.0 and newer knows; older ones know none."""
NEEDED = {"backup_id", "destination_directory", "remote_ssh_command"}


def main(command: str, *words: str) -> None:
    """Do what the command line says."""
    if command == "serve":
        ThreadingHTTPServer((words[0], 7480), Api).serve_forever()
    else:
        recover(*words)


def place(server: str, kind: str, operation: str) -> Path:
    """Where a file of an operation stands; ``kind`` is ``jobs`` or ``output``."""
    directory = HOME / server / kind
    directory.mkdir(exist_ok=True)
    return directory / f"{operation}.json"


def recover(server: str, operation: str) -> None:
    """Let Barman restore, and say how that ended."""
    while (HOME / HOLD).exists():
        time.sleep(0.1)
    job = json.loads(place(server, "jobs", operation).read_text())
    how = ("--remote-ssh-command", job["remote_ssh_command"])
    words = ("barman", "recover", server, job["backup_id"], job["destination_directory"], *how)
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    output = {**job, "success": not ended.returncode, "output": ended.stdout + ended.stderr}
    aside = place(server, "output", f"{operation}.new")
    aside.write_text(json.dumps(output))
    aside.rename(place(server, "output", operation))  # who asks meanwhile finds no half of it


class Api(BaseHTTPRequestHandler):
    """What is documented of it, as far as repmgr and `check --restore` use it."""

    def do_GET(self) -> None:
        if self.path == "/status":
            self.answer(200, "OK")
        elif not (found := re.fullmatch(r"/servers/([\w.-]+)/operations/(\w+)", self.path)):
            self.not_found("The requested URL was not found on the server.")
        elif not known(found[1]):
            self.not_found(f"No barman config found for '{found[1]}'.")
        elif place(found[1], "output", found[2]).exists():
            output = json.loads(place(found[1], "output", found[2]).read_text())
            self.answer(200, {"operation_id": found[2], "status": "DONE" if output["success"] else "FAILED"})
        elif place(found[1], "jobs", found[2]).exists():
            self.answer(200, {"operation_id": found[2], "status": "IN_PROGRESS"})
        else:
            self.not_found("Resource not found")

    def do_POST(self) -> None:
        found = re.fullmatch(r"/servers/([\w.-]+)/operations", self.path)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, backup = found[1] if found else "", asked["backup_id"]
        if not known(server):
            self.not_found(f"Server '{server}' does not exist")
        elif not (backup in SHORT_CUTS or re.fullmatch(r"\d{8}T\d{6}", backup)) or not known(server, backup):
            self.not_found(f"Backup '{backup}' does not exist")
        elif NEEDED - asked.keys():
            self.send(400, "text/html", "<p>Make sure all options/arguments are met and try again</p>")
        else:
            operation = time.strftime("%Y%m%dT%H%M%S")
            place(server, "jobs", operation).write_text(json.dumps({**asked, "operation_type": "recovery"}))
            subprocess.Popen((sys.executable, __file__, "recovery", server, operation), stdin=subprocess.DEVNULL)
            self.answer(202, {"operation_id": operation})

    def not_found(self, why: str) -> None:
        self.answer(404, {"error": f"404 Not Found: {why}"})

    def answer(self, code: int, value: Any) -> None:
        self.send(code, "application/json", json.dumps(value))

    def send(self, code: int, kind: str, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def known(server: str, backup: str = "") -> bool:
    """True if Barman knows a server, or a backup of it."""
    words = ("show-backup", server, backup) if backup else ("show-servers", server)
    ended = subprocess.run(("barman", *words), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return bool(server) and not ended.returncode


if __name__ == "__main__":
    os.umask(0o077)
    main(*sys.argv[1:])
