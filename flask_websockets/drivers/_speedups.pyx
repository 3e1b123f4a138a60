# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""System calls and no more around them. The twin of ``syscalls.py``.

The GIL is kept, as they never block.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EINTR
from libc.errno cimport errno

cdef extern from "sys/socket.h":
    ssize_t recv(int, void *, size_t, int)
    ssize_t send(int, const void *, size_t, int)


def receive(int descriptor, bytearray buffer not None):
    """Some bytes, by way of *buffer*; b"" when the peer has ended."""
    cdef ssize_t size = -1
    cdef char *start = buffer
    while size < 0:
        size = recv(descriptor, start, len(buffer), 0)
        if size < 0 and errno != EINTR:
            PyErr_SetFromErrno(OSError)
    return PyBytes_FromStringAndSize(start, size)


def write(int descriptor, bytes data not None):
    """Hand the kernel *data*; how much it takes."""
    cdef ssize_t size = -1
    while size < 0:
        size = send(descriptor, PyBytes_AS_STRING(data), len(data), 0)
        if size < 0 and errno != EINTR:
            PyErr_SetFromErrno(OSError)
    return size
