"""What may lie at a queue's path without being a segment that this process may use."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from shmqueue import ShmQueue, segment
from shmqueue.segment.header import CRC, FIELDS, Header, Shape

__all__ = ["NOBODY", "PLANTED", "Planted", "image_of_a_segment", "sealed", "write_held"]

NOBODY = 65534
SIZE = 2 * segment.HEADER_SIZE

_kept: list[object] = []  # sockets and descriptors that stay until the trial's process ends


@dataclass(frozen=True)
class Planted:
    """``plant`` puts it at a path; ``words`` is a pattern for how it is refused."""

    name: str
    plant: Callable[[str], object]
    words: str
    only_root: bool = False


def image_of_a_segment(engine: str | None = None) -> bytes:
    """The bytes of a whole, empty segment; of this process's engine, or of one that the header only claims."""
    with ShmQueue("image", buffer_size=SIZE - segment.HEADER_SIZE) as queue:
        with open(segment.path_of("image"), "rb") as file:
            image = file.read()
        queue.unlink()
    if engine is None:
        return image
    header = Header.unpack(image, len(image), "")
    return sealed(image, header._replace(shape=header.shape._replace(engine=engine)))


def sealed(image: bytes, header: Header) -> bytes:
    """The segment with another header, whose checksum is right."""
    packed = header.pack()
    return packed + image[len(packed) :]


def write_held(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a file and hold it as a handle does: else it might be one that killed processes left, which may go."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, content)
    os.fchmod(fd, mode)
    fcntl.flock(fd, fcntl.LOCK_SH)
    _kept.append(fd)


def _write(path: str, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _changed(change: Callable[[bytearray], object]) -> Callable[[str], None]:
    def plant(path: str) -> None:
        image = bytearray(image_of_a_segment())
        change(image)
        write_held(path, bytes(image))

    return plant


def _reheaded(change: Callable[[Header], Header]) -> Callable[[str], None]:
    def plant(path: str) -> None:
        image = image_of_a_segment()
        write_held(path, sealed(image, change(Header.unpack(image, len(image), path))))

    return plant


def _of_another_version(image: bytearray) -> None:
    image[16] += 1
    CRC.pack_into(image, FIELDS.size, zlib.crc32(image[: FIELDS.size]))


def _grow(shape: Shape, more: int) -> Shape:
    return shape._replace(capacity=shape.capacity + more, data_size=shape.data_size + more)


def _other_engine(path: str) -> None:
    name = "portable" if os.environ["SHMQUEUE_ENGINE"] == "native" else "native"
    write_held(path, image_of_a_segment(name))


def _link_to_a_segment(path: str) -> None:
    _kept.append(ShmQueue("somebody's", buffer_size=4096))
    os.symlink(segment.path_of("somebody's"), path)


def _socket(path: str) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    os.chmod(path, 0o600)
    _kept.append(server)


def _fifo(path: str) -> None:
    """With a stray sidecar beside it: then a sweep reads what lies at the queues' paths."""
    os.mkfifo(path, 0o600)
    sidecar = os.path.basename(path).replace("shmqueue-", "shmqueue-lock-", 1).rpartition("-")[0] + "-" + "0" * 32
    write_held(os.path.join(os.path.dirname(path), sidecar), b"")
    fcntl.flock(_last_descriptor(), fcntl.LOCK_EX)


def _last_descriptor() -> int:
    fd = _kept[-1]
    assert isinstance(fd, int)
    return fd


def _of_nobody(path: str) -> None:
    write_held(path, image_of_a_segment())
    os.chown(path, NOBODY, -1)


def _link_to_nobodys(path: str) -> None:
    _of_nobody(path + "-original")
    os.link(path + "-original", path)


_SYMLINK = "it is a symbolic link"
_DAMAGED = r"its header is corrupted \(wrong checksum\)"

PLANTED = (
    Planted("a symbolic link to a file", lambda path: os.symlink("/etc/passwd", path), _SYMLINK),
    Planted("a symbolic link to a segment", _link_to_a_segment, _SYMLINK),
    Planted("a symbolic link to nothing", lambda path: os.symlink(path + "-nothing", path), _SYMLINK),
    Planted("a directory", lambda path: os.mkdir(path, 0o700), "it is a directory"),
    Planted("a fifo", _fifo, r"it is not a regular file \(mode p"),
    Planted("a socket", _socket, "it is a socket or a device"),
    Planted(
        "a device",
        lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
        r"it is not a regular file \(mode c|\(permission denied\)",
        only_root=True,
    ),
    Planted(
        "a file that the group may read",
        lambda path: write_held(path, image_of_a_segment(), 0o640),
        r"others may access it \(mode -rw-r-----",
    ),
    Planted(
        "a file that everybody may write",
        lambda path: write_held(path, image_of_a_segment(), 0o602),
        r"others may access it \(mode -rw-----w-",
    ),
    Planted("an empty file", lambda path: write_held(path, b""), "its header is empty"),
    Planted("a short file", lambda path: _write(path, b"somebody"), "the file has only 8 bytes"),
    Planted(
        "a file of something else", lambda path: _write(path, b"#!" * SIZE), r"not a shmqueue segment \(wrong magic"
    ),
    Planted("a segment cut off", lambda path: write_held(path, image_of_a_segment()[: SIZE - 1]), r"\(truncated\?\)"),
    Planted(
        "a segment with more behind it", lambda path: write_held(path, image_of_a_segment() + b"x"), "its header says"
    ),
    Planted(
        "a segment that claims more",
        _reheaded(lambda header: header._replace(shape=_grow(header.shape, 4096))),
        "its header says",
    ),
    Planted(
        "another version", _changed(_of_another_version), r"it has layout version \d+, this installation uses version"
    ),
    Planted("another size", _changed(lambda image: image.__setitem__(33, image[33] ^ 16)), _DAMAGED),
    Planted("another incarnation", _changed(lambda image: image.__setitem__(80, image[80] ^ 1)), _DAMAGED),
    Planted(
        "another checksum", _changed(lambda image: image.__setitem__(FIELDS.size, image[FIELDS.size] ^ 1)), _DAMAGED
    ),
    Planted(
        "another pid namespace",
        _reheaded(lambda header: header._replace(pid_namespace=4711)),
        r"another pid namespace \(4711, ours is \d+\)",
    ),
    Planted("another engine", _other_engine, "set SHMQUEUE_ENGINE="),
    Planted(
        "an engine that does not exist", lambda path: write_held(path, image_of_a_segment("steam")), "the steam engine"
    ),
    Planted("a segment of another user", _of_nobody, f"it belongs to user {NOBODY}", only_root=True),
    Planted(
        "a hard link to a segment of another user", _link_to_nobodys, f"it belongs to user {NOBODY}", only_root=True
    ),
)
