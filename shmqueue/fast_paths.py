"""Puts, gets and leases that need no Python at all, where they are of the most ordinary items and succeed at once.

The native engine does them (``python_queue.c``, ``python_coroutine.c``). Here is how the methods of a queue class are
decorated for it, and the base class that they need; without the native engine the decorators do nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from types import FunctionType, MethodDescriptorType
from typing import TYPE_CHECKING, Any, TypeVar

from shmqueue import clock
from shmqueue.attributes import static_attributes

if TYPE_CHECKING:
    from shmqueue.engine import Engine

try:
    from shmqueue.engine.native import CoroutineMethod, QueueBase, Ring
except ImportError:
    if not TYPE_CHECKING:
        Ring = None

        class QueueBase:
            """Base of the queue classes; without the native engine they do everything by themselves."""

            def _try_first(self, engine: object, load: object, ended: object, /) -> None:
                self._calls, self._paused = 0, clock.monotonic()

            def _is_turn_over(self) -> bool:
                """Whether a coroutine is to let the loop's other tasks run before it takes or puts anything."""
                self._calls += 1
                now = clock.monotonic() if self._calls % CALLS == 0 else self._paused
                is_over = now - self._paused > TURN
                if is_over:
                    self._paused = now
                return is_over


__all__ = [
    "QueueBase",
    "allow_fast_paths",
    "fast_get",
    "fast_get_coroutine",
    "fast_lease",
    "fast_put",
    "fast_put_coroutine",
    "own_fast_paths",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type[Any])

TURN = 0.002
"""Seconds of coroutines that need not wait before one lets the loop's other tasks run, as in ``python_queue.c``."""

CALLS = 16
"""Calls between two looks at the clock."""


def fast_put_coroutine(put: _Function) -> _Function:
    """``fast_put`` for an ``async def put(self, item)``, with ``as_pickle``.

    In the class is what passes for the function then. Calling it makes what passes for its coroutine, which makes the
    attempt when it is awaited. Where that does not succeed, and now and then where it would, the function's coroutine
    does everything: it asks ``self._is_turn_over()`` whether to let the loop's other tasks run.
    """
    return _coroutine_in_place_of(put, True)


def fast_get_coroutine(get: _Function) -> _Function:
    """The same for an ``async def get(self)``."""
    return _coroutine_in_place_of(get, False)


def fast_put(as_pickle: bool) -> Callable[[_Function], _Function]:
    """Have a queue's ``put(self, item, block, timeout)``, or ``put(self, item)``, tried by the native engine first.

    In the class is a built-in method then, with the function's name, parameters and documentation. It makes one
    attempt, which waits for nothing, for scalars, small lists, dicts and tuples of them, without a timeout. Whatever
    does not succeed is left to the function, so it must do the same, and more. The class is a ``QueueBase``, and tells
    by ``_try_first`` which engine its object uses, and how to load what the engine does not unpack.

    Args:
        as_pickle: as for ``shmqueue.items.PutItem``.
    """

    def decorate(put: _Function) -> _Function:
        way = "put" if not as_pickle else "put_as_pickle" if _takes_options(put) else "put_without_options"
        return _in_place_of(put, way)

    return decorate


def fast_get(get: _Function) -> _Function:
    """The same for ``get(self, block, timeout)``."""
    return _in_place_of(get, "get" if _takes_options(get) else "get_without_options")


def fast_lease(lease: _Function) -> _Function:
    """The same for ``lease(self, block, timeout)``."""
    return _in_place_of(lease, "lease")


def own_fast_paths(queue_type: _Class) -> _Class:
    """Give a class built-in methods of its own in the place of those that it inherits.

    CPython takes the shortest way to one only with objects of the very class that the method belongs to.
    """
    for name, value in static_attributes(queue_type).items():
        built_in = _built_in.get(value) if type(value) is MethodDescriptorType else None
        if built_in is not None and name not in vars(queue_type):
            built_in.put_into(queue_type, name)
    return queue_type


def allow_fast_paths(engine_: Engine, puts: bool, gets: bool) -> None:
    """Whether items may pass by whatever was put around the engine."""
    if Ring is not None and isinstance(engine_, Ring):
        engine_.fast_puts, engine_.fast_gets = puts, gets


def _takes_options(function: Callable[..., Any]) -> bool:
    assert isinstance(function, FunctionType)
    return "timeout" in function.__code__.co_varnames[: function.__code__.co_argcount]


def _in_place_of(function: _Function, way: str) -> _Function:
    in_class: Any = function if Ring is None else _BuiltIn(function, way)
    return in_class  # type: ignore[no-any-return]


def _coroutine_in_place_of(function: _Function, is_put: bool) -> _Function:
    in_class: Any = function if Ring is None else CoroutineMethod(function, is_put)
    return in_class  # type: ignore[no-any-return]


class _BuiltIn:
    """Stands for a built-in method until its class has been made, which that needs."""

    def __init__(self, function: Callable[..., Any], way: str) -> None:
        self._function, self._way = function, way

    def __set_name__(self, owner: type[QueueBase], name: str) -> None:
        setattr(owner, f"_slow_{self._way.partition('_')[0]}", self._function)
        self.put_into(owner, name)

    def put_into(self, owner: type[QueueBase], name: str) -> None:
        method = owner._method(self._way, name, _text_of(self._function))
        _built_in[method] = self
        setattr(owner, name, method)


_built_in: dict[Any, _BuiltIn] = {}
"""By the methods that they stood for."""


def _text_of(function: Callable[..., Any]) -> str:
    """Signature and documentation of a function as those of a built-in method are given."""
    assert isinstance(function, FunctionType)
    code, defaults = function.__code__, function.__defaults__ or ()
    required = code.co_argcount - len(defaults)
    parameters = ["$self", *code.co_varnames[1:required]]
    for name, default in zip(code.co_varnames[required:], defaults, strict=False):
        parameters.append(f"{name}={default if default is None or default is True else int(default)}")
    if code.co_kwonlyargcount:
        by_name = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        parameters += ["*", *(f"{name}=None" for name in by_name)]
        assert function.__kwdefaults__ == dict.fromkeys(by_name), "none has another default"
    return f"{function.__name__}({', '.join(parameters)})\n--\n\n{textwrap.dedent(function.__doc__ or '')}"
