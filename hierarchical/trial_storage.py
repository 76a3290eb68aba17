"""Where the trials of a search are kept: a file of SQLite, a journal, or a database server, as Optuna opens them.

    storage = open_storage("postgresql://user@host/searches")

No message shows the password of an address.
"""

import re
from typing import Any

from hierarchical.errors import InputError

ALIVE, DEAD = 30, 90  # seconds between a process's signs of life; and without one, until its trial is taken over
ATTEMPTS_ON_A_TRIAL = 3  # of processes that died over it
DRIVERS = {"postgresql": "psycopg[binary]", "mysql": "pymysql"}  # packages, by the address's first word
JOURNAL = "journal:///"


def open_storage(address: str) -> Any:
    """Optuna's storage at the address: sqlite:///FILE, journal:///FILE, postgresql://..., mysql+pymysql://...

    Raises InputError where a driver is missing, and what the driver and Optuna raise where nothing answers or the
    address is none.
    """
    from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
    from optuna.storages.journal import JournalFileBackend

    if address.startswith(JOURNAL):
        return JournalStorage(JournalFileBackend(address.removeprefix(JOURNAL)))
    options = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else {}  # others write, too
    again = RetryHeartbeatStaleTrialCallback(max_retry=ATTEMPTS_ON_A_TRIAL)
    try:
        return RDBStorage(
            address, options, heartbeat_interval=ALIVE, grace_period=DEAD, heartbeat_stale_trial_callback=again
        )
    except ImportError as error:
        raise InputError(f"--storage {without_password(address)}: {_missing(address, error)}") from None


def _missing(address: str, error: ImportError) -> str:
    module = getattr(error.__cause__, "name", None) or "a driver"
    package = DRIVERS.get(re.split("[:+]", address)[0])
    if not package:
        return f"the package {module} is missing; install it."
    plus = "; the address begins with mysql+pymysql:// then" if package == "pymysql" else ""
    return f"the package {module} is missing: pip install '{package}'{plus}."


def without_password(address: str) -> str:
    """The address as a log may show it."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", address)


def storage_fault(error: BaseException | None) -> str | None:
    """The first line of what a storage said, if it is behind this error; else None."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    while error is not None:
        if isinstance(error, (StorageInternalError, SQLAlchemyError)):
            return str(error.__cause__ or error).splitlines()[0]
        error = error.__cause__ or error.__context__
    return None
