"""What all tests share: no settings of the caller's, fixed hypothesis seeds, no skips in CI."""

import os

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, max_examples=100
)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    """Settings come from the test, not from the environment that happens to be around it."""
    for name in os.environ:
        if name.startswith("DASK_RUNNER_") and not name.startswith("DASK_RUNNER_TEST_"):
            monkeypatch.delenv(name)


def _fail_if_skipped(report):
    """In CI a skipped test is a failed test: nobody reads the list of skips."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: skipped in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    _fail_if_skipped(report)
    return report
