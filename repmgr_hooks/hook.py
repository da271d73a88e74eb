"""What repmgr calls: store the event, wake the worker, return.

repmgrd waits in ``system()`` with its followers behind it (repmgr: dbutils.c:4398, repmgrd-physical.c:3811), so this
file imports nothing that Python has not loaded already.

An event is stored as a file in the spool, which repmgrd's user may write; the journal belongs to the worker alone.
Root may call this too, and neither that user nor the spool's owner must be able to lead root elsewhere: the spool is
worked on through a handle, and no link is followed.
"""

import _thread
import os
import stat
import sys
import time
from _collections_abc import Callable, Iterable

from repmgr_hooks.catalogue import cluster_problem, problem

CONFIG = "/etc/repmgr-hooks/config.yaml"
STATE_DIR = "/var/lib/repmgr-hooks"
LOCAL = "/usr/local/bin/repmgr-hooks"
"""Where the program is, or a link to it, unless a package of the distribution has it."""
PACKAGED = __file__.startswith(("/usr/lib/python3", "/usr/lib/repmgr-hooks/"))  # Debian's package, the RPM
PROGRAM = "/usr/bin/repmgr-hooks" if PACKAGED else LOCAL
WAKE = "wake"
DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

DISK_LIMIT = 5.0
"""Seconds for the event to be stored."""
STORED, FAILED, USAGE = 0, 1, 2


def taken(argv: list[str]) -> int | None:
    """Take an event in and return the exit code; None for every other command."""
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
        in_time(lambda: store(spool, [cluster, *words]), DISK_LIMIT)
    except OSError as error:
        say(f"the event cannot be stored ({error}); it is handled now, and repmgrd waits for it")
        return handle_now(config, [cluster, *words])
    if not wake(spool):
        start_worker(config)
    return STORED


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
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("it is not a file")
            return state_dir_in(file)
    except (OSError, UnicodeDecodeError) as error:
        say(f"{config}: cannot be read ({error}); the event goes to {STATE_DIR}")
    return STATE_DIR


def state_dir_in(lines: Iterable[str]) -> str:
    """Return what the first line ``state_dir: PATH`` says; the default if there is none.

    >>> state_dir_in(["clusters:\\n", "state_dir: '/srv/hooks'  # a disk of its own\\n"])
    '/srv/hooks'
    """
    for line in lines:
        if line.startswith("state_dir:"):
            return line[10:].replace("\t#", " #").split(" #")[0].strip().strip("'\"") or STATE_DIR
    return STATE_DIR


def forwards(config: str) -> bool:
    """True if the configuration is that of a database host, which hands its events on to gateways."""
    try:
        with open(config, encoding="utf-8", opener=at_once) as file:
            return any(line.startswith("forward:") for line in file)
    except (OSError, UnicodeDecodeError):
        return False


def at_once(path: str, flags: int) -> int:
    """Open a file; a FIFO would let repmgrd wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def in_time(job: Callable[[], None], limit: float) -> None:
    """Do what needs a disk. Raises OSError, also for a disk that hangs: repmgrd waits for us, and followers for it."""
    over = _thread.allocate_lock()
    failed: list[Exception] = []
    over.acquire()

    def do() -> None:
        try:
            job()
        except Exception as error:
            failed.append(error)
        over.release()

    try:
        _thread.start_new_thread(do, ())
    except RuntimeError:
        do()  # no thread is left
    if not over.acquire(timeout=limit):
        raise TimeoutError("its disk does not answer")
    if failed:
        raise failed[0]


def open_spool(spool: str, how: int = os.O_PATH) -> int:
    """Return a handle of the spool; neither it nor the state directory may be a link. Raises OSError."""
    above = os.open(os.path.dirname(spool), os.O_PATH | DIRECTORY)
    try:
        return os.open(os.path.basename(spool), how | DIRECTORY, dir_fd=above)
    finally:
        os.close(above)


def store(spool: str, words: list[str], name: str = "") -> None:
    """Write one file, durably: its name (a new one, if none is given) appears only when it is whole. Raises OSError.

    One fsync, after the rename: ext4, XFS and Btrfs commit a file's new name with the file.
    """
    final = name or f"{time.time_ns():020d}-{os.getpid()}"
    hidden, directory = f".{final}", open_spool(spool)
    try:
        file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=directory)
        try:
            os.fchmod(file, 0o640)  # whatever repmgrd's umask: the service reads it through the group
            text = "\n".join([*words, ""]).encode()
            if os.write(file, text) != len(text):
                raise OSError("written in part only; the disk is full")
            os.rename(hidden, final, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(file)
        except OSError:
            for name in (hidden, final):
                remove(name, directory)
            raise
        finally:
            os.close(file)
    finally:
        os.close(directory)


def remove(name: str, directory: int) -> None:
    """Remove a file, if it is there and can be removed."""
    try:  # noqa: SIM105 - contextlib takes time to import
        os.unlink(name, dir_fd=directory)
    except OSError:
        pass


def handle_now(config: str, words: list[str]) -> int:
    """Become the program that handles the event, as root, with its words on stdin: sudoers need no wildcard so.

    Returns only if there is no such program.
    """
    argv = [*as_root(config), "event", "-"]
    try:
        # What repmgrd has closed is open then, and no file of ours takes its place.
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
        reader, writer = os.pipe()
        os.write(writer, "\n".join([*words, ""]).encode())  # less than any pipe holds: the words have been checked
        os.close(writer)
        os.dup2(reader, 0)
        os.execvp(argv[0], argv)
    except OSError as error:
        say(f"{' '.join(argv)}: cannot be started ({error}); the event is lost: run 'repmgr-hooks reconcile'")
    return FAILED


def as_root(config: str) -> list[str]:
    """Return how to run us as root; sudo leads to the default configuration, whoever asks.

    On a database host nothing needs root: events are only handed on, by the user who stores them.
    """
    if os.geteuid() == 0 or forwards(config):
        return [sys.executable, "-P", "-m", "repmgr_hooks", "--config", config]
    return ["sudo", "-n", PROGRAM]


def wake(spool: str) -> bool:
    """Tell the worker; False if none is there (nobody reads the FIFO)."""
    try:
        fifo = open_fifo(spool)
    except OSError:
        return False
    try:
        os.write(fifo, b".")
    except BlockingIOError:
        pass  # it is full of wake-ups already
    except OSError:
        return False  # its reader has just left
    finally:
        os.close(fifo)
    return True


def open_fifo(spool: str) -> int:
    """Return the end of the worker's FIFO that is written to. Raises OSError if nobody reads it, or if it is none."""
    directory = open_spool(spool)
    try:
        fifo = os.open(WAKE, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=directory)
    finally:
        os.close(directory)
    status = os.fstat(fifo)
    if not stat.S_ISFIFO(status.st_mode) or status.st_nlink != 1:
        os.close(fifo)
        raise OSError(f"{spool}/{WAKE} is not the worker's FIFO")
    return fifo


def start_worker(config: str) -> None:
    """Start a run of its own that empties the queue; it outlives us, and the worker's lock decides who works."""
    argv = [*as_root(config), "forward" if forwards(config) else "worker", "--once"]
    # No output of ours stays open: repmgr's ssh would wait for it. What the run does stands in the journal.
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    try:
        os.posix_spawnp(argv[0], argv, os.environ, file_actions=null, setsid=True)
    except OSError as error:
        say(f"stored, but no worker runs and none can be started ({error}); start repmgr-hooks.service")


def say(text: str) -> None:
    """One line on stderr, if it can take one at once: neither a full nor a closed one may cost an event."""
    try:
        from select import select  # only when there is something to say

        if sys.stderr and select([], [sys.stderr], [], 0)[1]:
            os.write(sys.stderr.fileno(), f"repmgr-hooks: {text}\n".encode(errors="backslashreplace"))
    except (OSError, ValueError):
        pass
