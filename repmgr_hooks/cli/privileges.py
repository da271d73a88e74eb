"""Root's commands become what the unit is before they touch what others may write: Barman's user, two capabilities."""

from __future__ import annotations

import contextlib
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


def become_service(config: Path, capable: bool = True) -> None:
    """Drop root's privileges for good; nothing happens unless we are root. Raises UsageError, OperationFailed.

    ``capable``: with the capabilities of the service, for programs that it starts; what starts none needs none.
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
            _become(user, place.lstat().st_gid if os.path.lexists(place) else 0, capable)
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


def _become(user: pwd.struct_passwd, repmgrds_group: int, capable: bool) -> None:
    """Before any thread is started: the kernel keeps capabilities and no_new_privs for each of them.

    What a user owns can be of none but that user's groups, or of one that root has chosen; root's own and that user's
    own are not repmgrd's.
    """
    if capable:
        from repmgr_hooks.cli import capabilities  # ctypes takes time to import

    groups = set(os.getgrouplist(user.pw_name, user.pw_gid))
    with contextlib.suppress(KeyError):
        own = (0, user.pw_gid)
        groups.add(grp.getgrnam(GROUP).gr_gid if repmgrds_group in own else repmgrds_group)
    if capable:
        capabilities.keep_over_setuid()
    os.setgroups(sorted(groups))
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    if capable:
        capabilities.keep_two()
        capabilities.gain_no_more()
    # What systemd gives to a service (systemd.exec(5)), beside its PATH (main.py); and the unit's UMask.
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}
    os.chdir("/")
    os.umask(0o027)
