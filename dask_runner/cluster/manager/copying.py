"""Files and folders between this machine and a host, over its one SSH connection.

A copy is written in place: who wants it to appear at once copies to a name of its own and renames.
Refuses to know what is copied.
"""

import asyncio
import os
import shutil
from pathlib import Path

import asyncssh

from dask_runner.cluster.manager.host_link import HostLink
from dask_runner.cluster.ssh.connector import is_local
from dask_runner.errors import ClusterError, StorageError
from dask_runner.files import text_to_path


async def copy(link: HostLink, *, here: Path, there: str, fetch: bool) -> None:
    """Copy between `here` and the path text `there` on the link's host. Raises ClusterError if the
    host is the reason, StorageError if this machine is.
    """
    remote = text_to_path(there)
    if is_local(link.host):
        await asyncio.to_thread(_copy_here, *((remote, here) if fetch else (here, remote)))
        return
    sftp = await link.sftp()
    # As bytes, so that a name which is no UTF-8 passes.
    ours, theirs = os.fsencode(here), os.fsencode(remote)
    try:
        if fetch:
            await sftp.get(theirs, ours, recurse=True)
        else:
            await sftp.put(ours, theirs, recurse=True)
    except asyncssh.SFTPError as error:
        raise ClusterError(f"{link.name}: {remote}: {error.reason}") from error
    except (asyncssh.Error, ConnectionError) as error:
        raise ClusterError(f"{link.name}: lost while {remote} was copied: {error}") from error
    except OSError as error:
        raise StorageError(f"{here}: {error.strerror or error}") from error


def _copy_here(source: Path, target: Path) -> None:
    try:
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        raise StorageError(f"{source} cannot be copied to {target}: {error}") from error
