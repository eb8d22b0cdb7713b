"""A process to which the system denies some system calls, as containers and sandboxes do, by a filter of its own."""

from __future__ import annotations

import ctypes
import platform
import struct

__all__ = ["deny_robust_lists", "deny_shared_futexes", "why_not"]

_FUTEX = {"x86_64": 202, "aarch64": 98}  # its number
_ROBUST_LISTS = {"x86_64": (273, 274), "aarch64": (99, 100)}  # set_robust_list, get_robust_list
_PRIVATE = 128  # FUTEX_PRIVATE_FLAG: libc's own, which the interpreter cannot do without
_NUMBER, _OPERATION = 0, 24  # offsets in struct seccomp_data; the low half of the second argument
_LOAD, _IF_EQUAL, _IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def why_not() -> str | None:
    """Why there can be no such process here."""
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in _FUTEX or struct.calcsize("P") != 8:
        return f"the filter is for 64-bit Linux on {', '.join(_FUTEX)}, and this is {platform.system()} {machine}"
    return None


def deny_shared_futexes(error: int) -> None:
    """From now on futexes that are shared between processes fail with ``error``, in this thread and its children.

    Raises:
        OSError: the system does not take the filter.
    """
    _filter(
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 0, 3, _FUTEX[platform.machine()]),
        (_LOAD, 0, 0, _OPERATION),
        (_IF_SET, 1, 0, _PRIVATE),
        (_RETURN, 0, 0, _FAIL | error),
        (_RETURN, 0, 0, _ALLOW),
    )


def deny_robust_lists(error: int) -> None:
    """From now on robust futex lists can be neither set nor got, in this thread and its children: ``error``.

    Raises:
        OSError: the system does not take the filter.
    """
    first, second = _ROBUST_LISTS[platform.machine()]
    _filter(
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 1, 0, first),
        (_IF_EQUAL, 0, 1, second),
        (_RETURN, 0, 0, _FAIL | error),
        (_RETURN, 0, 0, _ALLOW),
    )


def _filter(*program_instructions: tuple[int, int, int, int]) -> None:
    instructions = b"".join(struct.pack("=HBBI", *instruction) for instruction in program_instructions)
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(len(instructions) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, "the system does not take a seccomp filter")
