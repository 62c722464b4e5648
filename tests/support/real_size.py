"""The released model's sizes, over the small configuration of tests/exporter/conftest.py."""

from ttc.planning.models import released_config

REAL = released_config()
