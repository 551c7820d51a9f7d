"""The packages of the process that wrote a model, into the bundle's environment.lock."""

from collections.abc import Mapping

from tuner import errands

#: not of a package registry under this name
_OWN = "tuner"


def text(exported: errands.Exported, trained_with: Mapping[str, str]) -> str:
    """Lines of `name==version`, which pip reads; what the weights were trained with stands above them."""
    trained = ", ".join(f"{name} {version}" for name, version in trained_with.items())
    lines = [
        f"# Trained with {trained}.",
        f"# Written by Python {exported.versions['python']}, tuner {exported.versions['tuner']}, with:",
    ]
    differing = [name for name, version in trained_with.items() if exported.versions.get(name, version) != version]
    if differing:
        lines.insert(1, f"# What wrote this bundle has another version of: {', '.join(differing)}.")
    lines += [f"{name}=={version}" for name, version in exported.packages.items() if name.lower() != _OWN]
    return "\n".join(lines) + "\n"
