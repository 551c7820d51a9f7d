"""PostgreSQL connections that are given up when no answer comes, although what lies between takes the packets.

The kernel gives up a connection whose packets no one acknowledges. A proxy, a load balancer or a server that stands still acknowledges them
and says nothing: without a limit of our own a worker would wait for ever, and whoever it locked out with it.
"""

from typing import Any

import psycopg
from sqlalchemy import Engine, event

#: how long a statement may take; longer than any wait for a lock that other workers hold
ANSWER_SECONDS = 30.0


class Impatient(psycopg.Connection[Any]):
    """A connection on which no statement takes longer than its limit; one that does is closed."""

    answer_seconds = ANSWER_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, with a limit where the caller sets none."""
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server took longer than {self.answer_seconds:.0f} s to answer: timed out") from error


def limit(engine: Engine) -> None:
    """Have an engine make such connections; the limit is that of unacknowledged packets where the URL sets it."""
    given = engine.url.query.get("tcp_user_timeout")
    seconds = ANSWER_SECONDS if given is None else int(str(given)) / 1000

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, parameters: Any) -> Impatient:
        connection: Impatient = Impatient.connect(*arguments, **parameters)
        connection.answer_seconds = seconds
        # a worker whose network went away in the middle of a transaction must not lock out the others
        connection.execute(f"SET idle_in_transaction_session_timeout = {int(1000 * seconds)}".encode())
        connection.commit()
        return connection

    engine.dispose()  # the connections made so far wait for ever
