# The types of context.py for Cython; Python itself does not read them.

cdef class ConnectionContext:
    cdef object _app
    cdef object _app_functions
    cdef object _globals
    cdef bint _is_entered
    cdef object _new_globals
    cdef object _request
    cdef object _request_functions
    cdef object _run
    cdef object _ws

    cpdef run(self, function, argument)
    cdef _tear_down(self, error)
