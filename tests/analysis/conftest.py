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


@pytest.fixture
def opened(chromium):
    """opened(path of a page, width): a page of Chromium that shows it; its `faults` are its errors and dialogs."""

    def opened(path, width):
        page = chromium.new_page(viewport={"width": width, "height": 800})
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda message: page.faults.append(message.text))
        page.on("dialog", lambda dialog: page.faults.append(dialog.message) or dialog.dismiss())
        page.goto(path.as_uri())
        return page

    return opened
