# The types of dispatch.py for Cython; Python itself does not read them.
cimport cython

from flask_websockets.connection cimport WebSocket
from flask_websockets.context cimport ConnectionContext
from flask_websockets.handlers cimport Handler
from flask_websockets.handlers cimport Handlers
from flask_websockets.handlers cimport Incoming
from flask_websockets.handlers cimport MessageHandler


cdef class Session:
    cdef public object app
    cdef public WebSocket ws
    cdef public Handlers handlers
    cdef public object values
    cdef object _clients
    cdef object _give_back
    cdef object _loop
    cdef object _errors
    cdef ConnectionContext _context

    @cython.locals(turns=int)
    cpdef int proceed(self, wait) except -1
    cdef _turn(self, attempt, argument)
    cdef bint _guarded(self, attempt, argument) except -1
    @cython.locals(handler=Handler, listener=MessageHandler, heard=cython.bint)
    cdef _message(self, Incoming incoming)
    cdef _reply(self, Handler handler, reply, Incoming incoming=*)
    cdef _reply_one(self, Handler handler, reply, Incoming incoming)
    cdef _as_message(self, Handler handler, reply, Incoming incoming)
    cdef _as_json(self, Handler handler, reply, Incoming incoming)
