"""What repmgr calls: store the event, wake the worker, return.

repmgrd waits in ``system()`` with its followers behind it (repmgr: dbutils.c:4398, repmgrd-physical.c:3811), so this
file imports nothing that Python has not loaded already.

An event is stored as a file in the spool, which repmgrd's user may write; the journal belongs to the worker alone.
"""

import os
import sys
import time
from stat import S_ISREG

from repmgr_hooks.catalogue import problem, shorten

CONFIG = "/etc/repmgr-hooks/config.yaml"
STATE_DIR = "/var/lib/repmgr-hooks"
PROGRAM = "/usr/local/bin/repmgr-hooks"
WAKE = "wake"

STORED, USAGE = 0, 2


def taken(argv: list[str]) -> int | None:
    """Take an event in and return the exit code; None for every other verb."""
    config, words = option("--config", argv)
    if words[:1] != ["event"] or words[1:] in (["-"], ["-h"], ["--help"]):
        return None
    return hand_in(config or os.environ.get("REPMGR_HOOKS_CONFIG") or CONFIG, words[1:])


def hand_in(config: str, words: list[str]) -> int:
    """Store the event and return 0, or 2 for words that repmgr would not send."""
    cluster, words = option("--cluster", words)
    words = words[1:] if words[:1] == ["--"] else words
    if wrong := problem(words) or cluster_problem(cluster):
        say(wrong)
        return USAGE
    spool = os.path.join(state_dir(config), "spool")
    try:
        store(spool, [cluster, *words])
    except OSError as error:
        say(f"the event cannot be stored ({error}); it is handled now, and repmgrd waits for it")
        handle_now(config, [cluster, *words])
    if not wake(spool):
        start_worker(config)
    return STORED


def cluster_problem(name: str) -> str:
    """Return what is wrong with the name of a cluster: it stands on a line of its own in the spool.

    >>> cluster_problem("main"), cluster_problem("a\\nb")
    ('', "--cluster is the name of a cluster in config.yaml; got 'a\\\\nb'")
    """
    good = name.isascii() and name.isprintable() and len(name) <= 63
    return "" if good else f"--cluster is the name of a cluster in config.yaml; got {shorten(name)}"


def option(name: str, words: list[str]) -> tuple[str, list[str]]:
    """Return the value of an option that comes first, and the words after it; empty if it does not come.

    >>> option("--cluster", ["--cluster=main", "2"]), option("--cluster", ["--cluster", "main", "2"])
    (('main', ['2']), ('main', ['2']))
    """
    if words[:1] == [name] and len(words) > 1:
        return words[1], words[2:]
    if words and words[0].startswith(f"{name}="):
        return words[0][len(name) + 1 :], words[1:]
    return "", words


def state_dir(config: str) -> str:
    """Return what the configuration says on its line ``state_dir: PATH``; the default if it cannot be read."""
    try:
        with open(config, encoding="utf-8", opener=at_once) as file:
            if not S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("it is no file")
            for line in file:
                if line.startswith("state_dir:"):
                    return line[10:].replace("\t#", " #").split(" #")[0].strip().strip("'\"") or STATE_DIR
    except (OSError, UnicodeDecodeError) as error:
        say(f"{config}: cannot be read ({error}); the event goes to {STATE_DIR}")
    return STATE_DIR


def at_once(path: str, flags: int) -> int:
    """Open a file; a FIFO would let repmgrd wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def store(spool: str, words: list[str]) -> None:
    """Write one file, durably: its name appears only when it is whole. Raises OSError.

    One fsync, after the rename: ext4, XFS and Btrfs commit a file's new name with the file.
    """
    name = f"{time.time_ns():020d}-{os.getpid()}"
    hidden, final = os.path.join(spool, "." + name), os.path.join(spool, name)
    file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        os.fchmod(file, 0o640)  # whatever repmgrd's umask: the service reads it through the group
        text = "\n".join([*words, ""]).encode()
        if os.write(file, text) != len(text):
            raise OSError("written in part only; the disk is full")
        os.rename(hidden, final)
        os.fsync(file)
    except OSError:
        for name in (hidden, final):
            if os.path.exists(name):
                os.unlink(name)
        raise
    finally:
        os.close(file)


def handle_now(config: str, words: list[str]) -> None:
    """Become the program that handles the event, as root, with its words on stdin: sudoers need no wildcard so."""
    reader, writer = os.pipe()
    os.write(writer, "\n".join([*words, ""]).encode())
    os.close(writer)
    os.dup2(reader, 0)
    argv = [*as_root(config), "event", "-"]
    os.execvp(argv[0], argv)


def as_root(config: str) -> list[str]:
    """Return how to run us as root; sudo leads to the default configuration, whoever asks."""
    if os.geteuid() == 0:
        return [sys.executable, "-P", "-m", "repmgr_hooks", "--config", config]
    return ["sudo", "-n", PROGRAM]


def wake(spool: str) -> bool:
    """Tell the worker; False if none is there (nobody reads the FIFO)."""
    try:
        fifo = os.open(os.path.join(spool, WAKE), os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        os.write(fifo, b".")
    except BlockingIOError:
        pass  # it is full of wake-ups already
    finally:
        os.close(fifo)
    return True


def start_worker(config: str) -> None:
    """Start a run of its own that empties the queue; it outlives us, and the worker's lock decides who works."""
    argv = [*as_root(config), "worker", "--once"]
    # No output of ours stays open: repmgr's ssh would wait for it. What the run does stands in the journal.
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    try:
        os.posix_spawnp(argv[0], argv, os.environ, file_actions=null, setsid=True)
    except OSError as error:
        say(f"stored, but no worker runs and none can be started ({error}); start repmgr-hooks.service")


def say(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"repmgr-hooks: {text}\n")
