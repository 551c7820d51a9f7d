"""The leases of a worker, renewed in the background for as long as it works."""

import threading
from collections.abc import Callable

#: a lease must outlive several missed beats
BEAT_SECONDS = 10.0


class Heartbeat:
    """Calls `beat` again and again inside a `with`; an error costs that one beat, and is told once until a beat succeeds."""

    def __init__(self, beat: Callable[[], None], trouble: Callable[[str], None], *, every_seconds: float = BEAT_SECONDS) -> None:
        self._beat = beat
        self._trouble = trouble
        self._every_seconds = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join(self._every_seconds)

    def _go_on(self) -> None:
        is_told = False
        while not self._ended.wait(self._every_seconds):
            try:
                self._beat()
                is_told = False
            except Exception as error:  # noqa: BLE001 - a heart that stops in silence would cost the worker its trial
                if not is_told:
                    self._trouble(f"the leases could not be renewed: {error}")
                is_told = True
