"""The parameter of all queue classes, and ``Self``: what type checkers know and not every Python has.

Nothing here is imported at run time but ``typing``. ``typing_extensions`` need not be installed: type checkers have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self
    from typing_extensions import TypeVar as _TypeVarWithDefault

    T = _TypeVarWithDefault("T", default=Any)  # so that ``q = Queue()`` needs no annotation
else:
    T = TypeVar("T")
    Self = Any

__all__ = ["Self", "T"]
