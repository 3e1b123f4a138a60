# The types of link.py for Cython; Python itself does not read them.
cimport cython

from flask_websockets.drivers.base cimport Transport
from flask_websockets.protocol.connection cimport Protocol


cdef class Link:
    cdef public object state
    cdef public object code
    cdef public object reason
    cdef public object latency
    cdef public Py_ssize_t dropped
    cdef object _config
    cdef Transport _transport
    cdef Protocol _protocol
    cdef object _before_close
    cdef bint _keeps_reading
    cdef list _inbox
    cdef object _ending
    cdef bint _gone
    cdef bint _holds_replies
    cdef double _last_read
    cdef double _close_until
    cdef object _ping
    cdef bint _ping_sent
    cdef double _alive_until
    cdef object _interval
    cdef int _turns
    cdef object _bucket

    cpdef send(self, message)
    cpdef reply(self, message)
    cpdef flush(self)
    cpdef deliver(self, envelope)
    cpdef look(self)
    cpdef require_open(self)
    cpdef take_in(self, bint wait)
    cpdef take_message(self)
    cpdef int standing(self) except -1
    cpdef _send(self, message)
    @cython.locals(now=double)
    cdef bint _read(self, timeout) except -1
    @cython.locals(events=list)
    cdef bytes _take(self, bytes data, double now)
    cdef bytes _take_controls(self, list events)
    cdef list _within_rate(self, list events, double now)
    cdef _settle(self)
    cdef _heard(self, double now)
    cdef _lock_reading(self)
    cdef _write(self, bytes frame)
    cpdef _deliver(self, envelope)
    cdef _set_closed(self, code, reason=*)
