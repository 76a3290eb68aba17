"""Who is asked what: the queue of analysis/review.py, several people at once, and when to stop.

    desk = Desk(items, ledger)
    item = desk.next("a browser", "ann")              # nobody else gets it for a while
    desk.answer("a browser", "ann", item["id"], ["财经"])
    desk.progress("ann")

An item is a row of the queue, see review_queue.py. What was answered is in the ledger and nowhere else, so that whoever
opens a new Desk on it goes on where the last one ended.
"""

import threading
import time
from datetime import datetime

from hierarchical.ledger import VOTES, Decision, standing

PAGE, SAMPLE = "page", "page, control sample"  # `via` of the answers
KINDS = ("disagreement", "suspect", "text", "control")
TURNS = ("suspect", "text", "suspect", "control", "suspect", "text", "suspect", "text", "suspect", "suspect")
LEASE_SECONDS = 600  # after which a row that somebody looks at may go to another
LAST = 40  # suspects by which the present yield is judged
RATE_SECONDS = 1200  # answers of this long ago make the rate
BREAK_SECONDS = 180  # a longer pause between answers is none of the work


class Desk:
    """The items of a queue, and the ledger that their answers go to; for several threads."""

    def __init__(self, items, ledger, lease_seconds=LEASE_SECONDS):
        self.items = {item["id"]: item for item in items}
        self.queues = {kind: [item for item in items if kind in item["kinds"]] for kind in KINDS}
        self.first = dict.fromkeys(KINDS, 0)  # of each queue: what stands before is done
        self.ledger, self.lease_seconds = ledger, lease_seconds
        self.leases = {}  # id -> (browser, until when, kind it was given out as)
        self.lock = threading.Lock()
        self.turn = 0

    def next(self, browser, who, kinds=KINDS):
        """The item that a browser is to show, None if there is none left for this person.

        Asking again gives the same until it is answered. kinds: those that are wanted
        """
        with self.lock:
            self.ledger.refresh()
            now = time.monotonic()
            self.leases = {key: lease for key, lease in self.leases.items() if lease[1] > now}
            for text_id, (holder, _, kind) in self.leases.items():
                if holder == browser and kind in kinds and self._is_open(self.items[text_id], who):
                    return self._give(self.items[text_id], browser, kind)
            for kind in self._kinds_in_turn(kinds):
                if item := self._first_open(kind, who):
                    return self._give(item, browser, kind)
            return None

    def answer(self, browser, who, text_id, labels, answer=None):
        """Put an answer into the ledger: labels by name, or None to skip; answer: "disputed" for what nobody can tell.

        Raises KeyError for an id that is not in the queue.
        """
        with self.lock:
            item = self.items[text_id]
            kind = self.leases.pop(text_id, (browser, 0, item["kinds"][0]))[2]
            before = None if item["labels"] is None else tuple(item["labels"])
            decision = self.ledger.answer(
                item["text"], who, labels, before=before, model=item["model"],
                via=SAMPLE if kind == "control" else PAGE, final=kind == "disagreement",
            )  # fmt: skip
            self.ledger.add([decision._replace(answer=answer) if answer else decision])
            self.turn += 1

    def undo(self, browser, who):
        """Take back the newest answer of a person that came from here; its item, None if there is nothing to undo."""
        with self.lock:
            self.ledger.refresh()
            mine = [one for votes in self._given().values() for one in votes if one.who == who]
            mine = [one for one in mine if one.via in (PAGE, SAMPLE)]
            if not mine:
                return None
            newest = max(mine, key=lambda one: one.when)
            self.ledger.add([Decision(newest.id, "undone", who, via=newest.via)])
            item = self.items[newest.id]
            kind = "control" if newest.via == SAMPLE else next(kind for kind in KINDS if kind in item["kinds"])
            for name in item["kinds"]:
                self.first[name] = 0
            for other in [key for key, lease in self.leases.items() if lease[0] == browser]:
                del self.leases[other]  # the row on the screen goes back into the queue
            return self._give(item, browser, kind)

    def progress(self, who):
        """How far the queue is, for the head of the page: counts, the rate, and what speaks for stopping."""
        with self.lock:
            given = self._given()
            asked = [(self.items[text_id], votes[-1]) for text_id, votes in given.items()]
            return {
                "done": len(asked),
                "open": len(self.items) - len(asked),
                "mine": sum(any(one.who == who for one in votes) for votes in given.values()),
                "per_minute": rate([one.when for votes in given.values() for one in votes if one.who == who]),
                **yield_of([pair for pair in asked if "suspect" in pair[0]["kinds"] and pair[1].via != SAMPLE]),
                "left": errors_left(asked),
            }

    # ---- within ------------------------------------------------------------------------------------------------------

    def _standing(self, text_id):
        """The answers that stand to a text since the queue was made."""
        made = self.items[text_id]["made"]
        return [one for one in standing(self.ledger.decisions.get(text_id, ())) if one.when >= made]

    def _given(self):
        """id -> the answers that stand, of what was answered."""
        ids = [text_id for text_id in self.ledger.decisions if text_id in self.items]
        return {text_id: votes for text_id in ids if (votes := self._standing(text_id))}

    def _is_open(self, item, who):
        """Whether this person can be asked: nobody has settled it, and they have said nothing."""
        given = self._standing(item["id"])
        return not any(one.who == who or one.answer in VOTES for one in given)

    def _first_open(self, kind, who):
        queue, start = self.queues[kind], self.first[kind]
        while start < len(queue) and any(one.answer in VOTES for one in self._standing(queue[start]["id"])):
            start += 1
        self.first[kind] = start
        rest = (queue[i] for i in range(start, len(queue)))
        return next((item for item in rest if item["id"] not in self.leases and self._is_open(item, who)), None)

    def _kinds_in_turn(self, kinds):
        """The kinds that are wanted, in the order in which to try them now."""
        turns = [TURNS[(self.turn + i) % len(TURNS)] for i in range(len(TURNS))]
        return dict.fromkeys(kind for kind in ("disagreement", *turns) if kind in kinds)

    def _give(self, item, browser, kind):
        self.leases[item["id"]] = browser, time.monotonic() + self.lease_seconds, kind
        return item


# ---- figures ---------------------------------------------------------------------------------------------------------


def rate(times):
    """Answers per minute over the last while, breaks left out; None for fewer than three. times: as in the ledger"""
    seconds = sorted(datetime.fromisoformat(when.replace("Z", "+00:00")).timestamp() for when in times)
    seconds = [one for one in seconds if one > time.time() - RATE_SECONDS]
    pauses = [later - earlier for earlier, later in zip(seconds, seconds[1:]) if later - earlier <= BREAK_SECONDS]
    return 60 * len(pauses) / max(sum(pauses), 1) if len(pauses) > 1 else None


def yield_of(suspects):
    """How many suspects were wrong, of all that were answered and of the last ones: (item, Decision) each."""
    votes = sorted((one for _, one in suspects if one.answer in VOTES), key=lambda one: one.when)
    errors = [one.answer == "changed" for one in votes]
    return {
        "suspects": len(errors),
        "errors": sum(errors),
        "last": {"rows": len(errors[-LAST:]), "errors": sum(errors[-LAST:])},
    }


def errors_left(asked):
    """The share of wrong rows among those that nobody has looked at, from the control sample; None without one.

    {"rows", "errors", "low", "high", "share"}: the last three as fractions, the first two 95 % limits of Wilson's
    interval. The sample was drawn from all rows; of these, only those count that are less suspicious than all suspects
    answered so far: they are a sample of what is left.
    """
    from scipy.stats import binomtest

    reached = max((item["rank"] for item, one in asked if "suspect" in item["kinds"] and one.via != SAMPLE), default=-1)
    sample = [one for item, one in asked if one.via == SAMPLE and item["rank"] > reached and one.answer in VOTES]
    if not sample:
        return None
    errors = sum(one.answer == "changed" for one in sample)
    interval = binomtest(errors, len(sample)).proportion_ci(0.95, "wilson")
    return {
        "rows": len(sample),
        "errors": errors,
        "share": errors / len(sample),
        "low": interval.low,
        "high": interval.high,
    }
