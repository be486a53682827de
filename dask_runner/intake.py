"""Outcomes as they come: recorded, the good ones published, the others tried again or not.

Owns what a batch becomes whose attempt failed, was lost or came back. Refuses to know how outcomes
travel, and where a batch goes next.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from functools import partial

import msgspec

from dask_runner.backlog import Backlog
from dask_runner.batch import Failure, FailureKind, Outcome, OutcomeStatus
from dask_runner.blame import Blame, Decision
from dask_runner.deliveries import is_whole
from dask_runner.deliveries import write as write_delivery
from dask_runner.errors import (
    BadInputError,
    ClusterError,
    HostGoneError,
    RunnerError,
    StorageError,
)
from dask_runner.execution.task import Delivery
from dask_runner.flights import Flight, Flights
from dask_runner.manifest import Manifest, Note, NoteKind
from dask_runner.publish import Publisher
from dask_runner.staging import Staging
from dask_runner.transport import Events

_LATEST = 3
_MESSAGE = 120
_ALONE = {FailureKind.LOST, FailureKind.BAD_INPUT, FailureKind.DISK_FULL}
# Causes that are named in a note as the batches' own.
_NAMED = 100

# A flight, an outcome that it waits for, and its files on their way here.
Collected = tuple[Flight, Outcome, Future[None]]


class Intake:
    """Takes in outcomes that flights wait for. `takers` gives the hosts that take batches now;
    `good_again` is called with a host whose quarantine a good batch has ended, `unreachable` with
    one that does not answer and why; `learn` with the outcome of each good batch. `peak` in bytes
    is the most memory that a batch has used, `latest` a line for each of the last failures.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        publisher: Publisher,
        flights: Flights,
        backlog: Backlog,
        blame: Blame,
        learn: Callable[[Outcome], None],
        takers: Callable[[], Collection[str]],
        good_again: Callable[[str], None],
        announce: Callable[[str], None],
        unreachable: Callable[[str, str], None],
        staging: Staging,
        events: Events,
    ) -> None:
        self._manifest = manifest
        self._publisher = publisher
        self._flights = flights
        self._backlog = backlog
        self._blame = blame
        self._learn = learn
        self._takers = takers
        self._good_again = good_again
        self._announce = announce
        self._unreachable = unreachable
        self._staging = staging
        self._events = events
        self._fresh: list[tuple[Flight, Outcome]] = []
        self._poison: set[str] = set()
        self.latest: deque[str] = deque(maxlen=_LATEST)
        self.peak = max((host.max_rss for host in manifest.state.hosts.values()), default=0)

    def hear(self, deliveries: Iterable[Delivery]) -> None:
        """Outcomes have come: they are accepted as soon as their files are here too."""
        for delivery in deliveries:
            told, contents = delivery.outcome(), delivery.contents
            flight = self._flights.awaiting(told)
            if flight is None:
                self._late(told)
                continue
            outcome = self._credible(flight, told, contents)
            if contents and outcome.status is OutcomeStatus.DONE:
                write_delivery(self._manifest.folder, outcome, contents)
            # Marked also if all is here: the same outcome may come twice at once.
            flight.collecting.add(outcome.batch)
            if outcome.status is OutcomeStatus.RETURNED:
                self._fresh.append((flight, outcome))
                continue
            files = self._staging.collect(flight.host, outcome, contents.keys())
            if files.done():
                self.collected((flight, outcome, files))
            else:
                files.add_done_callback(partial(self._when_collected, flight, outcome))

    def _when_collected(self, flight: Flight, outcome: Outcome, files: Future[None]) -> None:
        self._events.put(("collected", (flight, outcome, files)))

    def collected(self, value: Collected) -> None:
        """The files of an outcome are here, or cannot be brought: that is its host's fault, and no
        attempt of the batch's. Raises StorageError if they cannot be written here: our own disk is
        the same for every host.
        """
        flight, outcome, files = value
        error = files.exception()
        if isinstance(error, StorageError):
            raise error
        if error is not None and outcome.status is OutcomeStatus.DONE:
            message = f"its outputs could not be brought here: {error}"
            if isinstance(error, HostGoneError):
                self._unreachable(flight.host, error.message)
            else:
                self._blame.accuse(flight.host, f"batch {outcome.batch}: {message}")
            outcome = self._returned(flight, outcome.batch, message)
        self._fresh.append((flight, outcome))

    def _credible(self, flight: Flight, outcome: Outcome, contents: Mapping[str, bytes]) -> Outcome:
        """What a host says becomes paths here. A batch that is done has its planned outputs and no
        others, those that come back whole; a log is where the host was told to write it.
        """
        if outcome.log is not None and outcome.log.path not in flight.logs(outcome.batch):
            outcome = msgspec.structs.replace(outcome, log=None)
        if outcome.status is not OutcomeStatus.DONE:
            return outcome
        names = [output.name for output in outcome.outputs]
        planned = {output.name: output.optional for output in flight.batch(outcome.batch).outputs}
        needed = {name for name, optional in planned.items() if not optional}
        returned = {o.name for o in flight.batch(outcome.batch).outputs if o.returned}
        here = is_whole(outcome, contents) and returned & {*names} == contents.keys()
        if here and len({*names}) == len(names) and needed <= {*names} <= planned.keys():
            return outcome
        message = f"{flight.host} says that it is done, with other outputs than planned: {names}"
        self._blame.accuse(flight.host, f"batch {outcome.batch}: {message}")
        failure = Failure(
            kind=FailureKind.OUTPUT, message=message, fingerprint="outputs not as planned"
        )
        return msgspec.structs.replace(
            outcome, status=OutcomeStatus.FAILED, outputs=(), failure=failure
        )

    def _late(self, outcome: Outcome) -> None:
        """Nobody waits for it: its attempt was given up, or it is known already."""
        self._manifest.record(
            Note(
                kind="late-outcome",
                text="an outcome that nobody waits for came, and was ignored",
                data={"batch": outcome.batch, "attempt": outcome.attempt},
            )
        )

    def accept(self) -> None:
        """Record what has been heard, publish the good ones, decide about the others."""
        fresh = [(flight, _excused(outcome)) for flight, outcome in self._fresh]
        self._fresh = []
        if not fresh:
            return
        for flight, outcome in fresh:
            self._flights.heard(flight, outcome.batch)
        self._manifest.record(*(outcome for _, outcome in fresh))
        good = [outcome for _, outcome in fresh if outcome.status is OutcomeStatus.DONE]
        refused = {one.batch: one for one in self._publisher.publish(good)} if good else {}
        for outcome in good:
            self._learn(outcome)
        back: list[int] = []
        for flight, told in fresh:
            self.peak = max(self.peak, told.max_rss)
            outcome = refused.get(told.batch, told)
            if outcome.status is OutcomeStatus.DONE:
                if self._blame.passed(flight.host, outcome.batch):
                    self._good_again(flight.host)
            elif outcome.status is OutcomeStatus.FAILED:
                self._failed(flight, outcome)
            elif outcome.failure is not None and outcome.failure.kind in _ALONE:
                # One of its group is guilty of something, nobody knows which.
                self._backlog.again(outcome.batch, self._blame.avoided(outcome.batch))
            elif avoid := self._blame.avoided(outcome.batch):
                self._backlog.again(outcome.batch, avoid)
            else:
                back.append(outcome.batch)
        self._backlog.put_back(back)

    def give_up(self, flight: Flight) -> None:
        """Nothing more will be told of the flight's batches."""
        if not flight.unheard:
            return
        if flight.guilty:
            # Of a group nobody knows which batch was at work: each goes again, alone.
            message = flight.lost or "its group ended without an outcome for it"
            status = OutcomeStatus.FAILED if flight.single else OutcomeStatus.RETURNED
            failure = Failure(kind=FailureKind.LOST, message=message, fingerprint="lost")
            outcomes = [_made_up(flight, index, status, failure) for index in flight.unheard]
        elif flight.stranded is not None or not flight.submitted:
            outcomes = [_made_up(flight, index, OutcomeStatus.RETURNED) for index in flight.unheard]
        else:
            message = f"its host {flight.host} was lost while it ran there"
            if flight.unfetched:
                message = flight.lost
            outcomes = [self._returned(flight, index, message) for index in flight.unheard]
        self._fresh += [(flight, outcome) for outcome in outcomes]
        self.accept()

    def refuse(self, flight: Flight, error: RunnerError) -> None:
        """The flight's files could not be brought to its host: it has never begun. Raises the error
        again if it is not the host's or the input's.
        """
        if isinstance(error, HostGoneError):
            outcomes = [_made_up(flight, index, OutcomeStatus.RETURNED) for index in flight.waiting]
        elif isinstance(error, ClusterError):
            outcomes = [self._returned(flight, index, error.message) for index in flight.waiting]
        elif isinstance(error, BadInputError):
            failure = Failure(
                kind=FailureKind.BAD_INPUT,
                message=error.message,
                fingerprint="no files",
                final=True,
            )
            # Of several, nobody knows whose input it is: each goes again, alone.
            status = OutcomeStatus.FAILED if flight.single else OutcomeStatus.RETURNED
            outcomes = [_made_up(flight, index, status, failure) for index in flight.waiting]
        else:
            raise error
        self._fresh += [(flight, outcome) for outcome in outcomes]
        self.accept()

    def _returned(self, flight: Flight, index: int, message: str) -> Outcome:
        """Its host was lost or could not take it: nobody is blamed, unless that happens to a batch
        again and again.
        """
        decision = self._blame.lost(index, alone=flight.single)
        if decision is Decision.AGAIN:
            return _made_up(flight, index, OutcomeStatus.RETURNED)
        final = decision is Decision.FAILED
        failure = Failure(
            kind=FailureKind.LOST,
            message=f"{message}, as others before under the same batch",
            fingerprint="hosts lost",
            final=final,
        )
        status = OutcomeStatus.FAILED if final else OutcomeStatus.RETURNED
        return _made_up(flight, index, status, failure)

    def _failed(self, flight: Flight, outcome: Outcome) -> None:
        failure = outcome.failure
        assert failure is not None
        others = any(name != flight.host for name in self._takers())
        decision = self._blame.failed(
            flight.host,
            outcome.batch,
            failure,
            others=others,
            incident=str(flight.life) if flight.lost else "",
        )
        line = f"batch {outcome.batch}: {failure.kind}: {failure.message[:_MESSAGE]}"
        if decision is Decision.POISON:
            line = f"{line} (the batch's own: the same wherever it ran)"
            self._name_poison(outcome.batch, failure)
        self.latest.append(line)
        if decision is Decision.AGAIN:
            self._backlog.again(outcome.batch, self._blame.avoided(outcome.batch))

    def _name_poison(self, batch: int, failure: Failure) -> None:
        """The first batch of each cause stands for all."""
        if failure.fingerprint in self._poison or len(self._poison) >= _NAMED:
            return
        self._poison.add(failure.fingerprint)
        hosts = sorted(self._blame.avoided(batch))
        text = (
            f"batch {batch} fails the same way on {' and '.join(hosts) or 'its host'}: "
            f"{failure.kind} {failure.fingerprint}; it is the batch, not the host"
        )
        self._announce(text)
        self._manifest.record(
            Note(
                kind=NoteKind.POISON,
                text=text,
                data={"batch": batch, "fingerprint": failure.fingerprint, "hosts": hosts},
            )
        )


def _excused(outcome: Outcome) -> Outcome:
    """A cancelled attempt is nobody's fault."""
    if outcome.failure is not None and outcome.failure.kind is FailureKind.CANCELLED:
        return msgspec.structs.replace(outcome, status=OutcomeStatus.RETURNED)
    return outcome


def _made_up(
    flight: Flight, index: int, status: OutcomeStatus, failure: Failure | None = None
) -> Outcome:
    return Outcome(
        batch=index,
        attempt=flight.waiting[index],
        status=status,
        host=flight.host,
        failure=failure,
    )
