"""What tests of the dashboard stand on."""

from tests.dashboard.doors import browser, come_as, flowers, stranger, users  # noqa: F401
