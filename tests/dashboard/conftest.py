"""Fixtures of the dashboard tests."""

from tests.dashboard.clients import browser, come_as, flowers, stranger, users  # noqa: F401
