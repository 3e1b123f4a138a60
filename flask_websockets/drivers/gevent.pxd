# The types of gevent.py for Cython; Python itself does not read them.
cimport cython

from flask_websockets.drivers.base cimport Transport


cdef class GeventTransport(Transport):
    cdef object _hub
    cdef object _thread
    cdef object _greenlet
    cdef int _waiting
    cdef object _company
    cdef set _tasks

    cpdef _join(self)
    cpdef _leave(self)


cdef class EventTransport(GeventTransport):
    cdef object _handler
    cdef int _descriptor
    cdef Dispatcher _dispatcher
    cdef object _watcher
    cdef bint _is_watched
    cdef public bint is_queued
    cdef bint _is_held
    cdef bint _killed
    cdef object _error
    cdef object _over

    cpdef release(self)
    cpdef look_up(self)
    cpdef step(self, greenlet)
    cdef bint _detach(self) except -1
    cdef _begin(self)
    cdef _rest(self)
    cdef _end(self)
    cpdef _readable(self)


cdef class Dispatcher:
    cdef object _hub
    cdef object _ready
    cdef list _idle
    cdef public bytearray buffer
    cdef list _held
    cdef bint _is_called
    cdef list _put_off
    cdef object _timer
    cdef set _connections
    cdef double _interval
    cdef object _sweeper

    cpdef add(self, EventTransport transport)
    cpdef remove(self, EventTransport transport)
    cpdef enqueue(self, EventTransport transport)
    cpdef put_off(self, EventTransport transport)
    cpdef _go_on(self)
    cpdef hold(self, EventTransport transport)
    cdef _call(self)
    @cython.locals(transport=EventTransport)
    cpdef _serve(self)
    cpdef _work(self)
    @cython.locals(transport=EventTransport)
    cdef _step_next(self, current)
    cdef _stop_sweeping(self)
    @cython.locals(transport=EventTransport)
    cpdef _sweep(self)
