"""The installed packages into whether they are those that this version of tuner asks for."""

import importlib.metadata
import platform
from collections.abc import Iterable, Iterator

from packaging.requirements import Requirement

import tuner
from tuner import wording
from tuner.doctor import findings
from tuner.doctor.findings import Finding

_NAMED = ("optuna", "keras", "tensorflow", "optuna-dashboard")


def look() -> Iterator[Finding]:
    """Versions, and packages that are missing or of a wrong version."""
    versions = [f"Python {platform.python_version()}", f"tuner {tuner.__version__}"]
    versions += [f"{name} {version}" for name in _NAMED if (version := _version(name))]
    found = wording.listed(versions)
    try:
        asked = importlib.metadata.requires("tuner") or []
    except importlib.metadata.PackageNotFoundError:
        yield findings.note("packages", f"{found}; tuner itself is not installed, so what it asks for is not known")
        return
    wrong = mismatches(asked)
    if wrong:
        cure = "install tuner again into an environment of its own: pip install --editable ."
        yield findings.problem("packages", f"{found}; {wording.listed(wrong)}", cure)
    else:
        yield findings.ok("packages", found)


def mismatches(asked: Iterable[str]) -> list[str]:
    """`keras is 2.1, and tuner needs keras>=3` for each requirement that the installed packages do not meet; extras are left out."""
    found = []
    for requirement in map(Requirement, asked):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            found.append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} is {version}, and tuner needs {requirement.specifier}")
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
