"""What a call takes of memory, in bytes."""

import tracemalloc


def peak_bytes(function, *args, **kwargs):
    """(the result, the most that the call had allocated at a time); Python's objects and NumPy's arrays, not Paddle's."""
    tracemalloc.start()
    try:
        result = function(*args, **kwargs)
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
