"""few-shot/ is no package and its scripts share names with those at the root: tests load them by path."""

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "few-shot"
sys.path.append(str(FOLDER))  # last, so that `import train` stays the root's


def load_script(name):
    """load_script("train") is few-shot/train.py as a module."""
    spec = importlib.util.spec_from_file_location(f"few_shot_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
