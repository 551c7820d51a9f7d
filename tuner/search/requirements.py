"""What the sampler of a study needs, checked before anything is written; nothing heavy is imported for it."""

import importlib.util

from tuner.errors import MissingPackage
from tuner.search import enumeration
from tuner.spec import StudySpec
from tuner.strategies import Gp


def check(spec: StudySpec) -> None:
    """Refuse a sampler that cannot work.

    Raises:
        MissingPackage: it needs a package that is not installed.
        SpecError: it cannot go through this search space.
    """
    if isinstance(spec.sampler, Gp):
        require_torch()
    enumeration.combinations(spec)


def require_torch() -> None:
    """Refuse the sampler gp where it cannot run.

    Raises:
        MissingPackage: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPackage("torch", extra="gp", needed_for="sampler gp")
