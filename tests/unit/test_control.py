import os
import signal

import pytest

from dask_runner.control import Control


def test_the_first_request_drains_and_the_second_stops():
    control = Control()
    control.request("one")
    assert (control.draining, control.stopping) == (True, False)
    control.request("two")
    assert (control.draining, control.stopping, control.reason) == (True, True, "one")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_requests_while_the_context_lasts(number):
    before = signal.getsignal(number)
    control = Control()
    control.dispatching = True
    with control.signals():
        os.kill(os.getpid(), number)
    assert control.draining
    assert control.reason == number.name
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_dispatch_ends_at_once(number):
    control = Control()
    with pytest.raises(KeyboardInterrupt), control.signals():
        os.kill(os.getpid(), number)
