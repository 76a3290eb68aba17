"""A data folder with wrong labels planted in it, for measurements of what finds them."""

import random
import shutil

from utils import LabelTree, load_rows


def plant(source, folder, errors, seed):
    """Copy a data folder with wrong labels in it; the right ones: {text: set of names}."""
    folder.mkdir(parents=True)
    for name in ("label.txt", "dev.txt"):
        shutil.copy(source / name, folder / name)
    tree, rng = LabelTree.read(source / "label.txt"), random.Random(seed)
    rows = load_rows(source / "train.txt", tree)
    wrong = set(rng.sample(range(len(rows.texts)), errors))
    leaves = [i for i in range(len(tree)) if not tree.children[i]]
    with open(folder / "train.txt", "w", encoding="utf-8") as file:
        for i, (text, labels) in enumerate(zip(rows.texts, rows.labels)):
            if i in wrong:
                own = [k for k in labels if k in leaves]
                gone = rng.choice(own or list(labels))
                kept = [k for k in labels if k in leaves and k != gone]
                labels = tree.closure([*kept, rng.choice([k for k in leaves if k not in labels])])
            file.write(f"{text}\t{','.join(tree.labels[k] for k in labels)}\n")
    return {text: {tree.labels[k] for k in labels} for text, labels in zip(rows.texts, rows.labels)}
