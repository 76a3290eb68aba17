"""What each label is for, in a line that people write: guidelines.txt in the data folder, label<TAB>line."""

from hierarchical.console import FLAT
from hierarchical.errors import Problems
from hierarchical.files import atomic_write, read_lines
from hierarchical.sets import only_writer

NAME = "guidelines.txt"


def read_guidelines(directory):
    """{label: line}; {} where there is no file. Raises InputError for a line without a TAB."""
    path, problems, found = directory / NAME, Problems(), {}
    if not path.exists():
        return {}
    for number, line in read_lines(path, problems):
        label, tab, text = line.partition("\t")
        if line.strip() and not tab:
            problems.add(path, number, "a line is label<TAB>what it is for")
        elif text.strip():
            found[label.strip()] = text.strip()
    problems.raise_if_any()
    return found


def write_guideline(directory, label, text, lock):
    """Set the line of one label, or remove it with ""; what others wrote meanwhile stays. lock: of this process."""
    with lock, only_writer(directory, wait=True):
        found = read_guidelines(directory) | {label: " ".join(text.translate(FLAT).split())}
        with atomic_write(directory / NAME) as file:
            file.writelines(f"{label}\t{text}\n" for label, text in sorted(found.items()) if text)
    return found[label]
