"""How many cases a property is tried on: the same ones in each run, ten times as many with ``--exhaustive``."""
import sys

from hypothesis import HealthCheck, given, settings

_TIMES = 10 if '--exhaustive' in sys.argv else 1


def drawn(examples, **strategies):
    """Try a test on so many cases, as arguments by name."""
    few = settings(max_examples=examples * _TIMES, derandomize=True, deadline=None, database=None,
                   suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    return lambda test: few(given(**strategies)(test))
