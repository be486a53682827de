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
    with control.signals():
        os.kill(os.getpid(), number)
    assert control.draining
    assert control.reason == number.name
    assert signal.getsignal(number) is before
