"""How long a call takes, as far as other processes of the machine can be left out of it."""

import time


def least_seconds(function, times=3):
    """CPU seconds of the fastest of several calls."""

    def once():
        began = time.process_time()
        function()
        return time.process_time() - began

    return min(once() for _ in range(times))
