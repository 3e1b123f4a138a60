# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What touches bytes one by one, in C. The twin of the functions of ``frames.py``."""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

DEF SMALL = 1024


cdef void _mask(unsigned char *target, const unsigned char *source, Py_ssize_t size, const unsigned char *mask) noexcept nogil:
    cdef uint32_t four
    cdef uint64_t eight, word
    cdef Py_ssize_t i = 0
    memcpy(&four, mask, 4)
    eight = (<uint64_t>four << 32) | four
    # memcpy is how C says that an address need not be aligned.
    while i + 8 <= size:
        memcpy(&word, source + i, 8)
        word ^= eight
        memcpy(target + i, &word, 8)
        i += 8
    while i < size:
        target[i] = source[i] ^ mask[i & 3]
        i += 1


def encode_message(data not None):
    """The frame of a whole message: str as text, bytes as binary."""
    cdef const char *payload
    cdef Py_ssize_t size, start
    cdef unsigned char *frame
    cdef unsigned char first
    cdef int i
    if isinstance(data, str):
        payload = PyUnicode_AsUTF8AndSize(data, &size)
        first = 0x81
    else:
        payload = PyBytes_AS_STRING(<bytes?>data)
        size = PyBytes_GET_SIZE(<bytes>data)
        first = 0x82
    start = 2 if size < 126 else 4 if size < 0x10000 else 10
    cdef bytes result = PyBytes_FromStringAndSize(NULL, start + size)
    frame = <unsigned char *>PyBytes_AS_STRING(result)
    frame[0] = first
    if start == 2:
        frame[1] = <unsigned char>size
    elif start == 4:
        frame[1] = 126
        frame[2] = <unsigned char>(size >> 8)
        frame[3] = <unsigned char>(size & 0xFF)
    else:
        frame[1] = 127
        for i in range(8):
            frame[2 + i] = <unsigned char>((<uint64_t>size >> (56 - 8 * i)) & 0xFF)
    memcpy(frame + start, payload, size)
    return result


cdef bytes _unmask(const unsigned char *source, Py_ssize_t size, const unsigned char *mask):
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
    _mask(<unsigned char *>PyBytes_AS_STRING(result), source, size, mask)
    return result


def apply_mask(bytes data not None, bytes mask not None, Py_ssize_t start, Py_ssize_t end):
    """The bytes of *data* from *start* to *end*, masked."""
    if len(mask) != 4 or start < 0 or end > len(data) or start > end:
        raise ValueError("no such part of the data, or no mask of four bytes")
    cdef const unsigned char *source = <const unsigned char *>PyBytes_AS_STRING(data) + start
    return _unmask(source, end - start, <const unsigned char *>PyBytes_AS_STRING(mask))


cdef const unsigned char *_payload(bytes data, Py_ssize_t start, Py_ssize_t end) except NULL:
    if start < 4 or end > len(data) or start > end:
        raise ValueError("no such part of the data, or no mask before it")
    return <const unsigned char *>PyBytes_AS_STRING(data) + start


def unmask(bytes data not None, Py_ssize_t start, Py_ssize_t end):
    """The payload of a whole frame, from *start* to *end*, with its mask before it."""
    cdef const unsigned char *source = _payload(data, start, end)
    return _unmask(source, end - start, source - 4)


def unmask_text(bytes data not None, Py_ssize_t start, Py_ssize_t end):
    """The same as text; UnicodeDecodeError if it is not UTF-8."""
    cdef unsigned char small[SMALL]
    cdef const unsigned char *source = _payload(data, start, end)
    if end - start > SMALL:
        return _unmask(source, end - start, source - 4).decode()
    _mask(small, source, end - start, source - 4)
    return PyUnicode_DecodeUTF8(<const char *>small, end - start, NULL)
