"""The fleets of the serving tests, for sweeps."""

from tests.serving.conftest import make_fleet, model, only_embedded

__all__ = ["make_fleet", "model", "only_embedded"]
