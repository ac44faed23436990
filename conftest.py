"""What every test run shares: the marker `gpu`, and what nbval compares in a notebook."""

import matplotlib
import pytest
import torch

matplotlib.use("agg")  # this process only: a notebook's kernel keeps its inline backend


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that need a package index or minutes")


def pytest_collectstart(collector):
    """Progress bars (stderr) and HTML tables are not compared; printed text and plain results are."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "text/html")


def pytest_collection_modifyitems(config, items):
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "no CUDA device here"
    if not config.getoption("--slow"):
        reasons["slow"] = "runs with --slow only"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
