"""Two versions of a model side by side: a share of the requests for the new one, or all of them for both."""

import asyncio
import random
from datetime import datetime, timezone

import numpy as np

from deploy.simple_serving.batcher import Full, Item
from deploy.simple_serving.model import Work, plain

SHOWN = 5  # differing texts that a line names
SHARE = 4  # one place of so many in the queue is for texts that nobody waits for


class Split:
    """name: what a share of the requests is answered by, that would be answered by the default."""

    def __init__(self, name, share):
        self.name, self.share = name, share

    def choose(self, models):
        """The Model for a request that names none."""
        taken = self.name in models.loaded and random.random() < self.share
        return models.find(self.name if taken else None)


class Shadow:
    """Texts that were answered are given to a second model, too; nobody waits for it, and differences are told.

    Its texts take their turn as those of one more client, and are dropped where a quarter of the queue is
    taken: the rest is for those who wait.
    """

    def __init__(self, name, service, log):
        self.name, self.service, self.log, self.tasks = name, service, log, set()

    def ask(self, record, model, works):
        """Begin. works: those that were answered by `model`, with their outcomes."""
        if other := self.service.models.loaded.get(self.name):
            task = asyncio.ensure_future(self._ask(record.id, model, other, works))
            self.tasks.add(task)  # the loop alone would lose it
            task.add_done_callback(self.tasks.discard)

    async def _ask(self, request_id, model, other, works):
        service, count = self.service, self.service.figures.shadows
        again = [
            Work(work.text, min(work.max_seq_length, other.most_tokens), plain,
                 other.decision if work.decision in (None, model.decision) else work.decision, keep=True)
            for work in works
        ]  # fmt: skip
        most = 1 if other.singly else service.args.batch_size
        items = [Item(work, min(len(work.text), work.max_seq_length), other, most, "shadow") for work in again]
        if len(service.batcher.queue) + len(items) > service.args.queue_size // SHARE:
            return count.labels("dropped").inc(len(works))
        try:
            futures = service.batcher.submit(items)
            await asyncio.wait_for(asyncio.gather(*futures), service.args.timeout)
        except Full:
            return count.labels("dropped").inc(len(works))
        except Exception:  # whatever a model may fail with; those who asked have their answers
            service.batcher.forget(items)
            return count.labels("failed").inc(len(works))
        differences, largest = compare([work.outcome for work in works], [work.outcome for work in again], other.tree)
        count.labels("same").inc(len(works) - len(differences))
        count.labels("different").inc(len(differences))
        if self.log and differences:
            self.log.write({
                "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "id": request_id,
                "shadow": self.name, "version": other.version, "texts": len(works), "different": len(differences),
                "largest_difference": round(largest, 6), "differences": differences[:SHOWN],
            })  # fmt: skip


def compare(outcomes, others, tree):
    """([{text: its number, missing: labels, added: labels}] of those that differ, largest difference of probabilities).

    Each outcome: (class indices, probabilities float32 [L]).
    """
    differences, largest = [], 0.0
    for number, ((first, p), (second, q)) in enumerate(zip(outcomes, others, strict=True)):
        largest = max(largest, float(np.abs(p - q).max(initial=0)))
        missing, added = (sorted(a - b) for a, b in ((set(first), set(second)), (set(second), set(first))))
        if missing or added:
            names = ([tree.labels[i] for i in indices] for indices in (missing, added))
            differences.append({"text": number, **dict(zip(("missing", "added"), names))})
    return differences, largest
