"""Root's commands become what the unit is before they touch what others may write: Barman's user, two capabilities."""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
from pathlib import Path

from repmgr_hooks.errors import OperationFailed, UsageError
from repmgr_hooks.files import untrusted
from repmgr_hooks.hook import state_dir
from repmgr_hooks.lock import owner_of

USER, GROUP = "barman", "postgres"
"""As in systemd/repmgr-hooks.service (User, SupplementaryGroups) and config/tmpfiles.conf, for a state directory that
is to be made. Of one that is there owner and group count: repmgrd may run as another user than postgres."""
# linux/capability.h, linux/prctl.h
CAP_NET_ADMIN, CAP_NET_RAW = 12, 13
CAPABILITIES = 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW
CAPABILITY_VERSION_3 = 0x20080522
PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 8, 38, 47
PR_CAP_AMBIENT_RAISE = 2

LIBC = ctypes.CDLL(None, use_errno=True)


def become_service(config: Path) -> None:
    """Drop root's privileges for good; nothing happens unless we are root. Raises UsageError, OperationFailed.

    The service is the owner of its state directory. If that is root, nobody else can lead us anywhere.
    """
    if os.geteuid() != 0 or not config.exists():
        return
    if wrong := untrusted(config):
        raise UsageError(f"{config} is refused: {wrong}", hint=wrong.hint)
    place = Path(state_dir(str(config)))
    try:
        user = _service_user(place)
        if user.pw_uid != 0:
            _become(user, place.lstat().st_gid if os.path.lexists(place) else 0)
    except (OSError, KeyError) as error:
        raise OperationFailed(f"cannot become the user of the service, whose {place} is: {error}") from None


def _service_user(place: Path) -> pwd.struct_passwd:
    """Return whose the state directory is; it is made, as by ``tmpfiles.d``, if only root could have made it."""
    if os.path.lexists(place):
        return pwd.getpwuid(owner_of(place).st_uid)
    user = pwd.getpwnam(USER)
    if not untrusted(place.parent):
        place.mkdir(0o700)
        os.chown(place, user.pw_uid, grp.getgrnam(GROUP).gr_gid)
        place.chmod(0o710)
    return user


def _become(user: pwd.struct_passwd, repmgrds_group: int) -> None:
    """Before any thread is started: the kernel keeps capabilities and no_new_privs for each of them.

    What a user owns can be of none but that user's groups, or of one that root has chosen; root's own and that user's
    own are not repmgrd's.
    """
    groups = set(os.getgrouplist(user.pw_name, user.pw_gid))
    with contextlib.suppress(KeyError):
        own = (0, user.pw_gid)
        groups.add(grp.getgrnam(GROUP).gr_gid if repmgrds_group in own else repmgrds_group)
    _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups(sorted(groups))
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    _keep_capabilities()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    # What systemd gives to a service (systemd.exec(5)), and the unit's UMask.
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}
    os.chdir("/")
    os.umask(0o027)


def _keep_capabilities() -> None:
    """Keep two, for us and for the programs that we start: ambient ones survive execve(2) (capabilities(7)).

    In a container root itself may have fewer. The bounding set stays: with no_new_privs no program gains any.
    """
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the same for capabilities from 32
    _checked(LIBC.capget(header, sets))
    kept = sets[1] & CAPABILITIES
    _checked(LIBC.capset(header, (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)))
    for capability in (CAP_NET_ADMIN, CAP_NET_RAW):
        if kept & 1 << capability:
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, *values: int) -> None:
    words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _checked(LIBC.prctl(ctypes.c_int(option), *words))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
