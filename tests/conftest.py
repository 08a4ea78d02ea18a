"""Settings for every test, made before any library that reads them is loaded."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning pools starve each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for a model hub is wrong
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import support
from support import not_applicable, require_package, require_tool, shared_data

__all__ = ["not_applicable", "require_package", "require_tool", "shared_data"]

# No deadlines: two busy cores make any of them flaky. In continuous integration the same examples every time.
settings.register_profile("desk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", settings.get_profile("desk"), derandomize=True, print_blob=True, database=None
)
settings.load_profile("ci" if support.IN_CI else "desk")


@pytest.fixture(name="shared_data", scope="session")
def shared_data_fixture() -> Callable[[str], Path]:
    """`shared_data("ml-100k")` gives that data directory, or skips."""
    return shared_data


def _refusal(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return (
        f"{report.nodeid} did not run: {reason.removeprefix('Skipped: ')}\n"
        "With POCKETREC_CI=1 a test that cannot run has failed: make the setup install what it wants."
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and support.refused_in_ci(call.excinfo):
        report.longrepr = _refusal(report)
        report.outcome = "failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    call = getattr(report, "call", None)  # a whole module that skipped itself
    if report.skipped and call is not None and support.refused_in_ci(call.excinfo):
        report.longrepr = _refusal(report)
        report.outcome = "failed"
    return report
