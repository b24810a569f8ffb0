"""The model directory: whole or not at all, verified on reading, never a pickle."""

import hashlib
import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge import files, store
from presurge.errors import ConfigError, ModelError, StorageError

CONFIG = {"model": "dlinear", "note": "Überlast ☂", "error": {"requests": {"wape": 0.1 + 0.2}}}
ARRAYS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "index": np.array([1, -2], np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    store.save_model(tmp_path / "model", CONFIG, ARRAYS)
    return tmp_path / "model"


def test_there_and_back(model: Path) -> None:
    config, arrays = store.load_model(model)
    assert {name: config[name] for name in CONFIG} == CONFIG
    assert config["format"] == store.FORMAT
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors"]


def test_what_is_read_can_be_written_again_to_the_byte(model: Path, tmp_path: Path) -> None:
    config, arrays = store.load_model(model)
    store.save_model(tmp_path / "again", config, arrays)
    for name in (store.CONFIG_FILE, store.WEIGHTS_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (model / name).read_bytes()


@given(length=st.integers(1, 600))
def test_a_header_of_any_length_is_no_pickle(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    """The file begins with the length of its header, whose first byte can be that of a pickle."""
    directory = tmp_path_factory.mktemp("header") / "model"
    store.save_model(directory, CONFIG, {"n" * length: np.zeros(3, np.float32)})
    assert list(store.load_model(directory)[1]) == ["n" * length]


@pytest.mark.parametrize("file", [store.CONFIG_FILE, store.WEIGHTS_FILE])
def test_a_flipped_byte_is_found_wherever_it_is(model: Path, file: str) -> None:
    path = model / file
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=file.replace(".", r"\.")):
            store.load_model(model)


@pytest.mark.parametrize("keep", [0, 1, 7, 100])
def test_a_truncated_file_is_found(model: Path, keep: int) -> None:
    for name in (store.WEIGHTS_FILE, store.CONFIG_FILE):
        path = model / name
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ModelError):
            store.load_model(model)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("opened",)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_never_opened(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (model / store.WEIGHTS_FILE).write_bytes(pickle.dumps(_Trap(), protocol))
    with pytest.raises(ModelError, match="pickle"):
        store.load_model(model)
    assert not (tmp_path / "opened").exists()


def test_the_zip_of_torch_save_is_never_opened(model: Path) -> None:
    with zipfile.ZipFile(model / store.WEIGHTS_FILE, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Trap()))
    with pytest.raises(ModelError, match="pickle or a zip"):
        store.load_model(model)


def test_a_pickle_with_a_matching_checksum_is_never_opened(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes the weights can write the checksums too."""
    monkeypatch.chdir(tmp_path)
    for data in (pickle.dumps(_Trap()), b"\x80\x00\x00\x00\x00\x00\x00\x00{" + pickle.dumps(_Trap())):
        _exchange(model, data)
        with pytest.raises(ModelError):
            store.load_model(model)
    assert not (tmp_path / "opened").exists()


def _exchange(model: Path, weights: bytes) -> None:
    config = json.loads((model / store.CONFIG_FILE).read_text())
    del config["config_sha256"]
    config["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    text = json.dumps(config, sort_keys=True, ensure_ascii=False)
    config["config_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (model / store.CONFIG_FILE).write_text(json.dumps(config))
    (model / store.WEIGHTS_FILE).write_bytes(weights)


def test_a_newer_version_asks_for_an_upgrade(model: Path) -> None:
    path = model / store.CONFIG_FILE
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "format_version": store.FORMAT_VERSION + 1}))
    with pytest.raises(ModelError, match=r"format version 2[\s\S]*pip install --upgrade"):
        store.load_model(model)


@pytest.mark.parametrize("name", [store.CONFIG_FILE, store.WEIGHTS_FILE])
def test_a_missing_file_is_named(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        store.load_model(model)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "something else"}', "{", "\x00", "[" * 100_000])
def test_another_json_is_no_model(model: Path, text: str) -> None:
    (model / store.CONFIG_FILE).write_text(text)
    with pytest.raises(ModelError):
        store.load_model(model)


def test_a_model_is_found_in_a_run_directory(tmp_path: Path) -> None:
    store.save_model(tmp_path / "run" / "models", CONFIG, ARRAYS)
    assert store.find_model(tmp_path / "run") == tmp_path / "run" / "models"
    assert store.find_model(tmp_path / "run" / "models") == tmp_path / "run" / "models"
    with pytest.raises(ModelError, match="contains no model"):
        store.find_model(tmp_path)


def test_a_single_number_stays_one(tmp_path: Path) -> None:
    store.save_model(
        tmp_path / "model", {}, {"n": np.float32(3)[...], "view": np.arange(6.0).reshape(2, 3).T}
    )
    arrays = store.load_model(tmp_path / "model")[1]
    assert arrays["n"].shape == ()
    np.testing.assert_array_equal(arrays["view"], [[0, 3], [1, 4], [2, 5]])


def test_a_model_is_replaced_as_a_whole(model: Path) -> None:
    store.save_model(model, {"model": "other"}, {"weight": np.ones(2, np.float32)})
    config, arrays = store.load_model(model)
    assert config["model"] == "other"
    assert list(arrays) == ["weight"]
    assert [path.name for path in model.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("foreign", ["notes.txt", "config.json", "model.safetensors"])
def test_a_directory_that_holds_something_else_is_not_replaced(tmp_path: Path, foreign: str) -> None:
    """Another program's config.json does not make it a model, and a model does not make what is beside it one."""
    place = tmp_path / "model"
    place.mkdir()
    store.save_model(place, CONFIG, ARRAYS)
    if foreign == "model.safetensors":
        (place / "config.json").unlink()
    (place / foreign).write_text("{}")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(ConfigError, match=r"files that are not a model \((notes|config|model)\."):
        store.save_model(place, CONFIG, ARRAYS)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_an_error_while_writing_leaves_what_was_there(model: Path) -> None:
    class StopError(Exception):
        pass

    def interrupted() -> None:
        with files.atomic_path(model) as temporary:
            temporary.mkdir()
            (temporary / "half").write_text("written")
            raise StopError

    with pytest.raises(StopError):
        interrupted()
    store.load_model(model)
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_file_where_a_directory_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "model", tmp_path / "file"):
        with pytest.raises(StorageError, match="cannot be written"):
            store.save_model(place, CONFIG, ARRAYS)
    assert (tmp_path / "file").read_text() == "in the way"
    assert len(list(tmp_path.iterdir())) == 1


SAVE = """
import sys, numpy as np
from pathlib import Path
from presurge import store
from presurge.errors import StorageError
place = Path(sys.argv[1])
store.save_model(place, {"model": "small"}, {"weight": np.ones(10, np.float32)})
try:
    store.save_model(place, {"model": "large"}, {"weight": np.ones(100_000, np.float32)})
except StorageError as error:
    print(error)
print(store.load_model(place)[0]["model"], [path.name for path in place.parent.iterdir()])
"""


def save_large(prefix: list[str], place: Path, **options: object) -> str:
    command = [*prefix, sys.executable, "-c", SAVE, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.mark.integration
def test_a_full_disk_leaves_the_old_model_and_nothing_else(tmp_path: Path) -> None:
    """On a real file system of 64 KiB, mounted in a name space of its own."""
    mount = ["unshare", "--user", "--map-root-user", "--mount"]
    script = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec "$@"'
    try:
        possible = subprocess.run(
            [*mount, "sh", "-c", script, "sh", "true"], check=False, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if possible.returncode:
        pytest.skip("a small file system cannot be mounted here")
    printed = save_large([*mount, "sh", "-c", script, "sh"], tmp_path / "model")
    assert "No space left on device" in printed
    assert printed.endswith("small ['model']\n")


@pytest.mark.integration
def test_a_limit_on_file_size_leaves_the_old_model_and_nothing_else(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))

    printed = save_large([], tmp_path / "model", preexec_fn=limit)
    assert "File too large" in printed
    assert printed.endswith("small ['model']\n")


def test_a_model_of_another_kind_is_neither_loaded_nor_replaced(tmp_path: Path) -> None:
    store.save_model(tmp_path / "power", {**CONFIG, "kind": "power"}, ARRAYS)
    assert store.load_model(tmp_path / "power", "power")[0]["kind"] == "power"
    with pytest.raises(ModelError, match="of the kind power, where one of the kind forecaster is needed"):
        store.load_model(tmp_path / "power")
    with pytest.raises(ConfigError, match="contains a model of the kind power"):
        store.save_model(tmp_path / "power", CONFIG, ARRAYS)


def test_a_model_that_names_no_kind_is_a_forecaster(model: Path) -> None:
    assert "kind" not in store.load_model(model)[0]
    store.save_model(model, {**CONFIG, "kind": store.FORECASTER}, ARRAYS)
