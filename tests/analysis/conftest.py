"""Fixtures of the analysis scripts' tests; each test file has a fixture `call` of its own, which calls its main()."""

import pytest

from utils import run


@pytest.fixture
def refused(call, capsys):
    """refused(*arguments of call): what the script says on stderr before it ends with exit code 2."""

    def refused(*arguments):
        with pytest.raises(SystemExit) as ended:
            run(lambda: call(*arguments))
        assert ended.value.code == 2
        return capsys.readouterr().err

    return refused
