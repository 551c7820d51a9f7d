"""Who asks, and what they may do."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What someone may do; each role may do what those before it may."""

    #: sees everything, changes nothing
    VIEWER = "viewer"
    #: changes studies
    EDITOR = "editor"
    #: deletes studies, and sees who did what
    ADMIN = "admin"

    def allows(self, needed: "Role") -> bool:
        """Whether this role may do what needs that one."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Someone who is signed in, or a program with a token."""

    name: str
    role: Role
