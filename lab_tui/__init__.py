"""lab-tui: a full-screen monitor and throughput lab for local LLM serving."""

import sys

__version__ = "0.2.0"

# httpx brings its own command line along, and with it rich, pygments and click, unless that cannot be
# imported. Nothing of ours uses it; the engine loads no screen library, and commands start sooner.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
