# The types of handlers.py for Cython; Python itself does not read them.
cimport cython


cdef class Handler:
    cdef public object function
    cdef public object name
    cdef public object subject
    cdef public bint takes_subject
    cdef public object first
    cdef public bint takes_all
    cdef public bint replies_json
    cdef public object names
    cdef public object required
    cdef public tuple order

    cpdef call(self, subject, values)
    cdef call_in_order(self, subject, list wanted)


cdef class MessageHandler(Handler):
    cdef public object groups
    cdef public bint is_catch_all
    cdef public object prefix

    cpdef hear(self, Incoming incoming, values)


cdef class PatternHandler(MessageHandler):
    cdef public object pattern
    cdef object _match
    cdef object _type
    cdef tuple _wanted
    cdef list _sources

    @cython.locals(given=dict, wanted=list)
    cpdef hear(self, Incoming incoming, values)


cdef class JSONHandler(MessageHandler):
    cdef dict _filters


cdef class Incoming:
    cdef public object message
    cdef object _app
    cdef object _json
    cdef bint _tried

    cpdef json(self)


cdef class Index:
    cdef list _always
    cdef list _general
    cdef list _places

    @cython.locals(found=list)
    cpdef find(self, message)


cdef class Handlers:
    cdef public bint match_one
    cdef public list before_open
    cdef public list on_open
    cdef public list before_message
    cdef public list after_message
    cdef public list before_close
    cdef public list on_close
    cdef public dict errors
    cdef list _patterns
    cdef list _catch_alls
    cdef Index _texts
    cdef Index _binaries

    @cython.locals(index=Index)
    cpdef candidates(self, message)
