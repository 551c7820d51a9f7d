"""Client of a tuner server: submit studies, follow them and take their results, with the standard library only."""

from tuner_client.connection import NotAllowed, NotFound, Refused, ServerError, TunerClientError, Unreachable
from tuner_client.study import Client, RemoteStudy, StudyFailed

__version__ = "1.0.0"
__all__ = [
    "Client",
    "NotAllowed",
    "NotFound",
    "Refused",
    "RemoteStudy",
    "ServerError",
    "StudyFailed",
    "TunerClientError",
    "Unreachable",
]
