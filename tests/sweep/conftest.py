"""The fleets of the serving tests, for sweeps."""

from tests.serving.conftest import fleet, make_fleet, model, only_embedded

__all__ = ["fleet", "make_fleet", "model", "only_embedded"]
