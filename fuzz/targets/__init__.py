"""What is fuzzed: each module has a ``check(data)`` that raises if *data* shows a fault.

They need no fuzzer: ``tests/test_fuzz.py`` calls them with the corpus. Their oracles are the
slow twins of ``tests/protocol``.
"""
