# The types of base.py for Cython; Python itself does not read them.
cimport cython


cdef class Transport:
    cdef public Py_ssize_t unsent
    cdef public object stall
    cdef public double drain
    cdef public object _socket
    cdef bytes _early
    cdef list _outbox
    cdef object _piece
    cdef int _flushers
    cdef public object _alarm
    cdef public object _life
    cdef public bint _closed
    cdef public bint is_reading
    cdef object __weakref__

    cpdef read(self, timeout)
    cpdef bint begin_reading(self) except -1
    cpdef end_reading(self)
    cpdef queue(self, bytes data)
    cpdef hold(self, bytes data)
    cpdef push(self)
    cpdef flush(self, stall, until=*)
    cpdef post(self, bytes data)
    cpdef flush_soon(self)
    cpdef lock(self)
    cpdef unlock(self)
    cpdef ring(self)
    cpdef bint is_here(self) except -1
    cpdef bint is_serving(self) except -1
    cpdef _join(self)
    cpdef _leave(self)
    cpdef _receive(self)
    cpdef Py_ssize_t _send(self, data) except -1
    @cython.locals(sent=Py_ssize_t)
    cpdef bint _push(self) except -1
    @cython.locals(count=Py_ssize_t, size=Py_ssize_t, outbox=list)
    cdef bytes _next_piece(self)
