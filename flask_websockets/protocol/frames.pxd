# The types of frames.py for Cython; Python itself does not read them.
cimport cython


@cython.locals(first=int, size=Py_ssize_t)
cpdef bytes encode_frame(int opcode, bytes payload, bint compressed=*)
