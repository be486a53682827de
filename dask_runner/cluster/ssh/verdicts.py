"""What the facts of a host mean: one rule a function, each with what to do about it.

Pure; what is found is compared with `Expected`, which is this machine. Refuses to look at anything
itself.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from dask_runner.cluster.ssh.report import Check, HostFacts, HostReport, LastingFacts, Verdict
from dask_runner.execution.numerics import short
from dask_runner.hostfile import Host

_CLOCK_WARNING: Final = 5.0
# The cluster's certificates are valid from a day before they are made.
_CLOCK_LIMIT: Final = 23 * 3600.0
_TOKEN_WARNING: Final = timedelta(hours=25)
_LEAST_MEMORY: Final = 500_000_000
_LEAST_HOME: Final = 100_000_000
_GIGABYTE: Final = 1e9
_KLIST_TIMES: Final = ("%m/%d/%y %H:%M:%S", "%m/%d/%Y %H:%M:%S")
_KLIST_LINE: Final = re.compile(r"(\S+ \S+)\s+(\S+ \S+)\s+krbtgt/")


class Expected(Struct, frozen=True, kw_only=True):
    """This machine, with which hosts are compared. `versions` are as from versions.versions();
    `numerics` is our self-test's hash ("": not compared). `scratch` is the setting, of which
    `scratch_floor` bytes must be free. `probe` is a file of ours in the folder that should be
    shared ("": not asked), with the `token` in it; `staging` is the setting. We listen at
    `call_port` (0: ports are not tried).
    """

    versions: dict[str, str]
    token: str
    numerics: str = ""
    scratch: str = ""
    scratch_floor: int = 0
    staging: Literal["auto", "shared", "sftp"] = "auto"
    probe: str = ""
    call_port: int = 0


def judge(host: Host, facts: HostFacts, expected: Expected, *, thorough: bool) -> list[Check]:
    """All checks that the facts allow."""
    rules = [*_RULES, *(_THOROUGH_RULES if thorough else ())]
    checks = [rule(host, facts, expected) for rule in rules]
    checks += judge_lasting(host, facts) if thorough else ()
    return [check for check in checks if check is not None]


def judge_lasting(host: Host, facts: LastingFacts) -> list[Check]:
    """What may end or hinder a host's processes in time."""
    checks = [rule(host, facts) for rule in _LASTING_RULES]
    return [check for check in checks if check is not None]


def refuse_twins(reports: Sequence[HostReport]) -> list[HostReport]:
    """The reports; of two names for one machine the second is refused."""
    first: dict[str, str] = {}
    result = []
    for report in reports:
        if report.facts is None:
            result.append(report)
            continue
        other = first.setdefault(report.facts.identity, report.host)
        if other == report.host:
            result.append(report)
            continue
        twin = Check(
            name="identity",
            verdict="fail",
            text=f"{report.host} is the same machine as {other}",
            fix="leave one of the two names in the hostfile; it would get twice its slots",
        )
        result.append(replace(report, checks=(*report.checks, twin)))
    return result


def judge_python(host: Host, version: str, expected: Expected) -> Check:
    """The host's Python against ours."""
    ours = expected.versions["python"]
    if version == ours:
        return Check(name="python", verdict="ok", text=version)
    same = version.split(".")[:2] == ours.split(".")[:2]
    return Check(
        name="python",
        verdict="warn" if same else "fail",
        text=f"{host.address}: python is {version} there, {ours} here",
        fix=f"install Python {ours} there, or say where it is: python=/PATH in the hostfile",
    )


def _python(host: Host, facts: HostFacts, expected: Expected) -> Check:
    return judge_python(host, facts.python, expected)


def _packages(host: Host, facts: HostFacts, expected: Expected) -> Check:
    ours = {name: found for name, found in expected.versions.items() if name != "python"}
    theirs = facts.versions
    if "dask-runner" not in theirs:
        return Check(
            name="packages",
            verdict="fail",
            text=f"{host.address}: {facts.executable} has no dask-runner",
            fix=f"install it there: {facts.executable} -m pip install dask-runner; or name the "
            "Python that has it: python=/PATH in the hostfile",
        )
    wrong = [
        f"{name} is {theirs.get(name, 'missing')} there, {version} here"
        for name, version in ours.items()
        if theirs.get(name) != version
    ]
    if not wrong:
        return Check(name="packages", verdict="ok", text=f"{len(ours)} the same")
    names = [name for name in ours if theirs.get(name) != ours[name] and name != "dask-runner"]
    fixes = []
    if names:
        wanted = " ".join(f"{name}=={ours[name]}" for name in names)
        fixes.append(f"on {host.address}: {facts.executable} -m pip install {wanted}")
    if theirs["dask-runner"] != ours["dask-runner"]:
        fixes.append(f"install the same dask-runner ({ours['dask-runner']}) on {host.address}")
    return Check(
        name="packages",
        verdict="fail",
        text=f"{host.address}: " + ", ".join(wrong),
        fix="; ".join(fixes),
    )


def _import_path(host: Host, facts: HostFacts, _expected: Expected) -> Check:
    if not facts.doubtful_paths:
        return Check(name="import path", verdict="ok", text="ours")
    worst: Verdict = "warn"
    if any(path.kind == "anybody" for path in facts.doubtful_paths):
        worst = "fail"
    first = next(
        (path for path in facts.doubtful_paths if path.kind == "anybody"), facts.doubtful_paths[0]
    )
    rest = len(facts.doubtful_paths) - 1
    more = f" (and {rest} more)" if rest else ""
    fix = f"on {host.address}: chmod o-w {first.path}"
    if first.kind != "anybody":
        fix = "if you do not trust them with your account, use a Python of your own"
    return Check(
        name="import path",
        verdict=worst,
        text=f"{host.address}: Python takes code from {first.path}, but {first.reason}{more}",
        fix=fix,
    )


def _scratch(host: Host, facts: HostFacts, expected: Expected) -> Check:
    place = f"{host.address}: scratch {facts.scratch}"
    fix = "name another folder: scratch=/PATH in the hostfile, or storage.scratch"
    if facts.scratch_error:
        text = f"{place} cannot be written to: {facts.scratch_error}"
        return Check(name="scratch", verdict="fail", text=text, fix=fix)
    free = _size(facts.scratch_free)
    if facts.scratch_free < expected.scratch_floor:
        return Check(
            name="scratch",
            verdict="fail",
            text=f"{place} has {free} free, {_size(expected.scratch_floor)} are wanted "
            "(cluster.scratch_floor)",
            fix=f"make room there, or {fix}",
        )
    return Check(name="scratch", verdict="ok", text=f"{free} in {facts.scratch}")


def _memory(host: Host, facts: HostFacts, _expected: Expected) -> Check:
    free = f"{_size(facts.memory_free)} free of {_size(facts.memory_total)}"
    if facts.memory_free >= _LEAST_MEMORY:
        return Check(name="memory", verdict="ok", text=free)
    return Check(
        name="memory",
        verdict="warn",
        text=f"{host.address}: has little memory: {free}",
        fix=f"see who has it: ssh {host.address} top",
    )


def _load(host: Host, facts: HostFacts, _expected: Expected) -> Check:
    text = f"{facts.load:.1f} on {facts.cores}"
    if facts.load <= facts.cores:
        return Check(name="load", verdict="ok", text=text)
    return Check(
        name="load",
        verdict="warn",
        text=f"{host.address}: its load is {facts.load:.1f}, and it has {facts.cores} cores",
        fix="somebody works there: fewer slots=N in the hostfile, or cluster.load to wait",
    )


def _clock(host: Host, facts: HostFacts, _expected: Expected) -> Check:
    ahead, doubt = facts.clock_offset, facts.clock_error
    off = max(0.0, abs(ahead) - doubt)
    if off <= _CLOCK_WARNING:
        return Check(name="clock", verdict="ok", text=f"{ahead:+.1f} s")
    way = "ahead" if ahead > 0 else "behind"
    text = f"{host.address}: its clock is {abs(ahead):.0f} s {way}"
    fix = f"on {host.address}: timedatectl set-ntp true (or ask who runs it)"
    if off < _CLOCK_LIMIT:
        return Check(name="clock", verdict="warn", text=text, fix=fix)
    return Check(
        name="clock",
        verdict="fail",
        text=f"{text}, more than a day: it would not take our certificates",
        fix=fix,
    )


def _folder(host: Host, facts: HostFacts, expected: Expected) -> Check | None:
    folder = expected.probe.rpartition("/")[0]
    if not facts.shared:
        return None
    if facts.shared == "yes":
        return Check(name="shared folder", verdict="ok", text="seen")
    seen = "is not seen there"
    if facts.shared == "read-only":
        seen = f"cannot be written to there by {facts.user}"
    text = f"{host.address}: the folder {folder} {seen}"
    if expected.staging == "shared":
        return Check(
            name="shared folder",
            verdict="fail",
            text=f"{text}, but cluster.staging is shared",
            fix=f"mount it there as {folder}, or let files be copied: cluster.staging = 'auto'",
        )
    return Check(
        name="shared folder",
        verdict="warn",
        text=f"{text}: inputs and outputs are copied over SSH",
        fix="nothing need be done; a folder that all hosts see saves the copying",
    )


def _ports(host: Host, facts: HostFacts, expected: Expected) -> Check | None:
    if not expected.call_port:
        return None
    if facts.reached and facts.reaches_us:
        return Check(name="ports", verdict="ok", text="both ways")
    if not (facts.reached or facts.reaches_us):
        what = "neither it nor we can reach"
    else:
        what = "it cannot reach" if facts.reached else "we cannot reach"
    return Check(
        name="ports",
        verdict="warn",
        text=f"{host.address}: {what} the other's ports: a firewall or a bastion is between us; "
        "traffic will be tunnelled through SSH",
        fix="nothing need be done; open ports above 1024 between the machines to have it faster",
    )


def _numerics(host: Host, facts: HostFacts, expected: Expected) -> Check | None:
    if facts.numerics_error:
        return Check(
            name="numerics",
            verdict="fail",
            text=f"{host.address}: the numerics self-test failed: {facts.numerics_error}",
            fix="the packages there may be damaged: install them anew",
        )
    if not (facts.numerics and expected.numerics):
        return None
    if facts.numerics == expected.numerics:
        return Check(name="numerics", verdict="ok", text="the same bits")
    return Check(
        name="numerics",
        verdict="fail",
        text=f"{host.address}: it computes other bits ({short(facts.numerics)}) than we do "
        f"({short(expected.numerics)}) with the same packages",
        fix="another processor or C library: results would depend on the host. Runs leave it out "
        "unless --accept-numerics says otherwise",
    )


def _users(_host: Host, facts: HostFacts, _expected: Expected) -> Check:
    others = [name for name in facts.users if name != facts.user]
    return Check(name="users", verdict="ok", text=", ".join(others) or "nobody else")


def _home(host: Host, facts: LastingFacts) -> Check:
    if facts.home_free >= _LEAST_HOME:
        return Check(name="home", verdict="ok", text=_size(facts.home_free))
    return Check(
        name="home",
        verdict="warn",
        text=f"{host.address}: {facts.home} has {_size(facts.home_free)} free",
        fix="copied inputs go there: make room, or set cluster.cache",
    )


def _tokens(host: Host, facts: LastingFacts) -> Check | None:
    if facts.tokens is None:
        return None
    left = token_lifetime(facts.tokens, datetime.fromisoformat(facts.local_time))
    if left is None:
        return Check(name="tokens", verdict="ok", text="none")
    hours = left.total_seconds() / 3600
    if left > _TOKEN_WARNING:
        return Check(name="tokens", verdict="ok", text=f"{hours:.0f} h")
    text = f"{hours:.1f} h more" if hours > 0 else "no more: it has expired"
    return Check(
        name="tokens",
        verdict="warn",
        text=f"{host.address}: its Kerberos ticket lives {text}; folders that need it (AFS, NFS) "
        "are lost then",
        fix=f"on {host.address}: kinit -R, or krenew for long runs; keep results elsewhere",
    )


def _linger(host: Host, facts: LastingFacts) -> Check:
    if facts.kills_at_logout and not facts.server_address:
        return Check(
            name="linger",
            verdict="warn",
            text=f"{host.address}: systemd ends your processes here at logout, also those of "
            "`up --detach`",
            fix="loginctl enable-linger",
        )
    # Elsewhere the agent ends with its connection anyway.
    return Check(name="linger", verdict="ok", text="fine")


def token_lifetime(words: str, now: datetime) -> timedelta | None:
    """How long the ticket-granting ticket in klist's words is valid; None without one. `now` is
    the host's own local time, in which klist writes.
    """
    match = _KLIST_LINE.search(words)
    if match is None:
        return None
    for form in _KLIST_TIMES:
        try:
            return datetime.strptime(match[2], form) - now  # noqa: DTZ007  (the host's)
        except ValueError:
            continue
    return None


def _size(count: int) -> str:
    return f"{count / _GIGABYTE:.1f} GB"


_Rule = Callable[[Host, HostFacts, Expected], Check | None]

_RULES: Final[tuple[_Rule, ...]] = (
    _python,
    _packages,
    _import_path,
    _scratch,
    _memory,
    _load,
    _clock,
    _folder,
    _ports,
)
_THOROUGH_RULES: Final[tuple[_Rule, ...]] = (_numerics, _users)
_LASTING_RULES: Final[tuple[Callable[[Host, LastingFacts], Check | None], ...]] = (
    _home,
    _tokens,
    _linger,
)
