# The types of connection.py for Cython; Python itself does not read them.
cimport cython


cdef class Protocol:
    cdef public bint has_controls
    cdef public bint has_more
    cdef Py_ssize_t _max_size
    cdef object _deflate
    cdef bint _done
    cdef bytes _buffer
    cdef Py_ssize_t _room
    cdef int _opcode
    cdef bint _compressed
    cdef bytearray _message
    cdef object _utf8
    cdef Py_ssize_t _wire_size
    cdef Py_ssize_t _left
    cdef bint _fin
    cdef bytes _mask

    cpdef list receive(self, bytes data, Py_ssize_t room=*)
    cpdef bytes encode_message(self, object data)
    cpdef bytes encode_shared(self, object data, dict frames)

    @cython.locals(
        position=Py_ssize_t, end=Py_ssize_t, start=Py_ssize_t, size=Py_ssize_t,
        first=int, second=int, opcode=int, is_whole=bint,
    )
    cdef _parse(self, bytes data, list events)
    cdef _check_header(self, int first, int second, int opcode)
    @cython.locals(limit=Py_ssize_t)
    cdef _check_size(self, Py_ssize_t size, int first)
    cdef _start_frame(self, int first, int opcode, Py_ssize_t size, bytes mask)
    @cython.locals(piece=bytes, turn=Py_ssize_t)
    cdef _take_piece(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef _inflate(self, bytes data)
    cdef _append(self, bytes data)
    cdef _finish_message(self)
