"""The contexts of ``shmqueue.compat.multiprocessing``: the standard ones, with these queues.

Each is an instance of the standard class of its start method. Which method is the default is decided in one place, the
standard default context, so that the standard library's own modules agree with it.
"""

from __future__ import annotations

import multiprocessing.context as context  # as a type checker finds it
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.context import BaseContext as _BaseContext
    from typing import Any, Literal, overload

    from . import _queues
else:
    _BaseContext = object

__all__ = ["Queues", "default_context", "makers"]


class Queues(_BaseContext):
    """The methods of a context that make queues."""

    def Queue(
        self, maxsize: int = 0, *, name: str | None = None, max_bytes: int | None = None, keep: bool = False
    ) -> _queues.Queue[Any]:
        """A queue in shared memory; with a name, any process can open it."""
        from ._queues import Queue

        return Queue(maxsize, name=name, max_bytes=max_bytes, keep=keep)

    def JoinableQueue(
        self, maxsize: int = 0, *, name: str | None = None, max_bytes: int | None = None, keep: bool = False
    ) -> _queues.JoinableQueue[Any]:
        """A queue in shared memory that knows which items are done; with a name, any process can open it."""
        from ._queues import JoinableQueue

        return JoinableQueue(maxsize, name=name, max_bytes=max_bytes, keep=keep)

    def SimpleQueue(
        self, *, name: str | None = None, max_bytes: int | None = None, keep: bool = False
    ) -> _queues.SimpleQueue[Any]:
        """A queue in shared memory as simple as a pipe; with a name, any process can open it."""
        from ._queues import SimpleQueue

        return SimpleQueue(name=name, max_bytes=max_bytes, keep=keep)


if TYPE_CHECKING:

    class Context(Queues):
        """What ``get_context`` of each context returns."""

        @overload
        def get_context(self, method: None = None) -> DefaultContext: ...
        @overload
        def get_context(self, method: Literal["spawn"]) -> SpawnContext: ...
        @overload
        def get_context(self, method: Literal["fork"]) -> ForkContext: ...
        @overload
        def get_context(self, method: Literal["forkserver"]) -> ForkServerContext: ...
        @overload
        def get_context(self, method: str) -> Context: ...
        def get_context(self, method: str | None = None) -> Any: ...

    class DefaultContext(Context, context.DefaultContext): ...

    class SpawnContext(Context, context.SpawnContext): ...

    class ForkContext(Context, context.ForkContext): ...

    class ForkServerContext(Context, context.ForkServerContext): ...


class _Concrete(Queues):
    """What a context of one start method does otherwise than the standard one."""

    def get_context(self, method: str | None = None) -> Any:
        """The context of a start method; None, this one."""
        return self if method is None else _for_method(method)

    def __reduce__(self) -> tuple[Any, ...]:
        return _for_method, (self.get_start_method(),)


class _Default(Queues, context.DefaultContext):
    """The standard default context under another name: it keeps no start method of its own."""

    def __init__(self) -> None:
        pass

    def get_context(self, method: str | None = None) -> Any:
        """The context of a start method; None, of the default one."""
        return _for_method(method or _standard.get_start_method())

    def get_start_method(self, allow_none: bool = False) -> Any:
        """The default start method."""
        return _standard.get_start_method(allow_none)

    def get_all_start_methods(self) -> list[str]:
        """The start methods that this platform has, the default one first."""
        return _standard.get_all_start_methods()

    def set_start_method(self, method: Any, force: bool = False) -> None:
        """Choose the default start method, for the standard library too."""
        _standard.set_start_method(method, force)

    def __reduce__(self) -> str:
        return "default_context"


_standard = context._default_context
_made: dict[str, Any] = {}


def _for_method(method: str) -> Any:
    """The context of a start method, which is made once.

    Raises:
        ValueError: there is no such method, or not on this platform.
    """
    standard = type(_standard.get_context(method))
    if method not in _made:
        _made.setdefault(method, type(standard.__name__, (_Concrete, standard), {"__module__": __name__})())
    return _made[method]


default_context: DefaultContext = _Default()  # type: ignore[assignment]


class _Maker:
    """A method of the default context that makes queues, as a function that can be subscripted as a class can."""

    def __init__(self, method: Any, module: str) -> None:
        self._method = method
        self.__module__, self.__doc__ = module, method.__doc__
        self.__name__: str = method.__name__
        self.__qualname__ = self.__name__
        self.__wrapped__ = method

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._method(*arguments, **options)

    def __getitem__(self, item: Any) -> types.GenericAlias:
        return types.GenericAlias(self, item)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def __reduce__(self) -> str:
        return self.__name__

    def __repr__(self) -> str:
        return f"<function {self.__module__}.{self.__name__}>"


def makers(module: str) -> list[Any]:
    """The functions that make queues, for a module to have under their names."""
    return [_Maker(getattr(default_context, name), module) for name in ("Queue", "JoinableQueue", "SimpleQueue")]
