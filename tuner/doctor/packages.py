"""Packages: installed versions against what tuner requires and what the studies were started with."""

import importlib.metadata
import platform
from collections.abc import Iterable, Iterator
from functools import partial

from packaging.requirements import Requirement

import tuner
from tuner import wording
from tuner.doctor import findings, lost_trials
from tuner.doctor.findings import Finding
from tuner.errors import StudyError
from tuner.storage.attributes import PREPARED
from tuner.storage.engine import Storage
from tuner.studies import study as studies

#: packages whose version is always shown
_SHOWN = ("optuna", "keras", "tensorflow", "optuna-dashboard")


def installed() -> Iterator[Finding]:
    """Check that the installed packages meet tuner's requirements."""
    versions = [f"Python {platform.python_version()}", f"tuner {tuner.__version__}"]
    versions += [f"{name} {version}" for name in _SHOWN if (version := _version(name))]
    found = wording.listed(versions)
    try:
        requirements = importlib.metadata.requires("tuner") or []
    except importlib.metadata.PackageNotFoundError:
        yield findings.note("packages", f"{found}; tuner is not installed as a package, so its requirements are unknown")
        return
    wrong = mismatches(requirements)
    if wrong:
        cure = "install tuner again in a new virtual environment: pip install --editable ."
        yield findings.problem("packages", f"{found}; {wording.listed(wrong)}", cure)
    else:
        yield findings.ok("packages", found)


def mismatches(requirements: Iterable[str]) -> list[str]:
    """Return `keras is 2.1, but tuner needs >=3` for each requirement that is not met; extras are ignored."""
    found = []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            found.append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} is {version}, but tuner needs {requirement.specifier}")
    return found


def of_studies(opened: Storage) -> Iterator[Finding]:
    """Find studies that this version of tuner cannot read, and studies that were started with other package versions."""
    differences, unreadable = {}, []
    for study_id, name in opened.read(lost_trials.all_studies):
        prepared = opened.read(partial(lost_trials.study_attribute, study_id=study_id, key=PREPARED))
        versions = prepared.get("versions") if isinstance(prepared, dict) else None
        if isinstance(versions, dict) and versions:
            differences[name] = differing_versions(versions)
        if not _is_readable(name, opened):
            unreadable.append(name)
    if unreadable:
        found = f"this version of tuner cannot read: {lost_trials.listed(unreadable)}"
        yield findings.warning("versions", found, "use the version of tuner that made the study, or start a new study under another name")
    differing = [f"{name} ({', '.join(packages)})" for name, packages in differences.items() if packages]
    if differing:
        found = f"started with other versions than are installed here: {lost_trials.listed(differing)}"
        cure = "results can differ in the last digits; for identical results, install the same versions on all machines"
        yield findings.note("versions", found, cure)
    elif differences:
        yield findings.ok("versions", f"{wording.count(len(differences), 'study')}, started with the versions that are installed here")


def differing_versions(recorded: dict[str, str]) -> list[str]:
    """Return `keras 3.14.0, here 3.15.1` for each installed package whose version differs from the recorded one."""
    found = []
    for package, version in recorded.items():
        here = _version(package)
        if here is not None and here != version:
            found.append(f"{package} {version}, here {here}")
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_readable(name: str, opened: Storage) -> bool:
    try:
        studies.load(name, opened)
    except StudyError:
        return False
    return True
