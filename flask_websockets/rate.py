"""How much one peer may ask for. Knows numbers and moments, no clock and no message."""

from __future__ import annotations

#: Who has been listened to for so long, in seconds, has nothing sent that is still unread.
_SETTLED = 0.01


class Bucket:
    """A token bucket that is fair to whoever had to wait for us.

    What a peer sends while nobody reads arrives all at once, and it may have kept to its
    rate nevertheless. So the time that nobody reads fills the bucket without a bound, and
    the time that somebody listens fills it up to the burst.

    :param rate: tokens a second.
    :param burst: the tokens that it begins with.
    :param now: a moment, by any clock that does not go back.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._time = now

    def listen(self, now: float) -> None:
        """From *now* on somebody listens; nobody did since the last :meth:`take`."""
        self._level += self._rate * max(0.0, now - self._time)
        self._time = max(self._time, now)

    def settle(self, now: float) -> None:
        """All that was sent is read: what is over the burst is lost."""
        self._level += self._rate * max(0.0, now - self._time)
        self._level = min(self._level, self._burst)
        self._time = max(self._time, now)

    def take(self, count: int, now: float) -> int:
        """Take *count* tokens, or as many as are there.

        :param now: when what asks for them was read.
        :return: how many were there.
        """
        elapsed = max(0.0, now - self._time)
        self._time = max(self._time, now)
        if elapsed > _SETTLED:
            self._level = min(self._level, self._burst)
        self._level = max(self._level, min(self._burst, self._level + self._rate * elapsed))
        taken = min(count, int(self._level))
        self._level -= taken
        return taken
