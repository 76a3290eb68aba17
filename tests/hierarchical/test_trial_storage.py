"""The storage of a search: a driver that is missing, a fault that is behind others, passwords that stay out of logs."""

import sys

import pytest

from hierarchical.errors import InputError
from hierarchical.trial_storage import open_storage, storage_fault, without_password

pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://ann:pa%40ss@host:5432/searches", "postgresql://ann:***@host:5432/searches"),
        ("mysql+pymysql://ann@host/searches", "mysql+pymysql://ann@host/searches"),
        ("sqlite:///a/b:c@d.db", "sqlite:///a/b:c@d.db"),
    ],
)
def test_no_password_is_shown(address, shown):
    assert without_password(address) == shown


@pytest.mark.parametrize(
    ("address", "module", "message"),
    [
        ("postgresql://ann:secret@h/s", "psycopg", "the package psycopg is missing: pip install 'psycopg[binary]'."),
        ("mysql+pymysql://ann:secret@h/s", "pymysql", "the package pymysql is missing: pip install 'pymysql'; "),
        ("mysql://ann:secret@h/s", "MySQLdb", "pip install 'pymysql'; the address begins with mysql+pymysql:// then."),
        ("mssql://ann:secret@h/s", "pyodbc", "the package pyodbc is missing; install it."),
    ],
)
def test_a_driver_that_is_missing(monkeypatch, address, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError) as raised:
        open_storage(address)
    assert message in str(raised.value) and "secret" not in str(raised.value)


def test_a_fault_behind_others(tmp_path):
    with pytest.raises(Exception) as raised:
        open_storage(f"sqlite:///{tmp_path / 'none' / 'search.db'}")
    try:
        raise AssertionError("Should not reach.") from raised.value
    except AssertionError as error:
        assert "unable to open database file" in storage_fault(error)
    assert storage_fault(ValueError("of another kind")) is None
