# The types of connection.py for Cython; Python itself does not read them.
from flask_websockets.link cimport Link


cdef class WebSocket:
    cdef public str id
    cdef public object state
    cdef public object subprotocols
    cdef public object subprotocol
    cdef public object arrival
    cdef object _config
    cdef object _rooms
    cdef public Link _link
    cdef object __weakref__

    cpdef send(self, data)
    cpdef deliver(self, envelope)
    cpdef take_in(self, wait)
    cpdef take_message(self)
    cpdef int standing(self) except -1
    cpdef reply(self, message)
    cpdef flush(self)
    cdef Link _opened(self, hint=*)
    cdef _look(self)
