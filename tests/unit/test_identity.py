import os
import pwd

from dask_runner.identity import user_name, whoami


def test_a_uid_without_a_name_is_its_own_name(monkeypatch):
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert user_name() == str(os.getuid())
    assert whoami().startswith(f"{os.getuid()}@")
