"""Sends one message, by HTTP or by SMTP, in a process of its own; ``receivers.py`` says what. The order is on stdin.

What is said of a failure names no URL and no header, for either may be a secret.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import smtplib
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

READ_AT_MOST = 4096
SMTP_PORT = 25


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: urllib would follow it with a GET, and to wherever it leads."""

    def redirect_request(self, *arguments: object, **more: object) -> None:
        return None


def main() -> None:
    """Send; exit code 1 and one line on stderr if that fails."""
    order = json.load(sys.stdin)
    signal.alarm(order["timeout"] + 1)  # the service ends us before that, unless it has ended itself
    try:
        post(order) if "webhook" in order else hand_over(order)
    except urllib.error.HTTPError as error:
        sys.exit(f"the webhook answered {error.code}")
    except urllib.error.URLError as error:
        sys.exit(f"the webhook does not answer: {error.reason}")
    except (OSError, smtplib.SMTPException) as error:
        who = "the webhook" if "webhook" in order else f"the mail server {order['smtp']}"
        sys.exit(f"{who}: {type(error).__name__}: {error}")
    except (ValueError, http.client.InvalidURL) as error:
        sys.exit(f"the URL or a header is not valid ({type(error).__name__})")
    except http.client.HTTPException as error:
        sys.exit(f"the webhook does not answer in HTTP ({type(error).__name__})")


def post(order: dict[str, Any]) -> None:
    """Post a JSON document. Raises OSError (also for an answer other than 2xx), ValueError, HTTPException."""
    url, headers = order["webhook"], {}
    if url.startswith("/"):
        url, *lines = Path(url).read_text(encoding="utf-8").splitlines()
        headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    if not url.startswith(("http://", "https://")):
        raise ValueError("neither http nor https")
    headers = {"Content-Type": "application/json", "User-Agent": "repmgr-hooks", **headers}
    request = urllib.request.Request(url.strip(), order["body"].encode(), headers, method="POST")
    with urllib.request.build_opener(NoRedirect).open(request, timeout=order["timeout"]) as answer:
        answer.read(READ_AT_MOST)


def hand_over(order: dict[str, Any]) -> None:
    """Hand a mail to a relay. Raises OSError, SMTPException."""
    host, _, port = order["smtp"].partition(":")
    relay = smtplib.SMTP(host, int(port or SMTP_PORT), timeout=order["timeout"])
    relay.sendmail(order["sender"], order["to"], order["body"])
    with contextlib.suppress(OSError, smtplib.SMTPException):  # it has the mail; it would get a second one
        relay.quit()


if __name__ == "__main__":
    main()
