"""Who may ask the fleet: which hosts want a key, where it comes from, which files are fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lab_tui import access, paths
from lab_tui.cli import fleet as command
from lab_tui.cli.parts import _usual
from lab_tui.config import ServeSettings, Settings, fleet_spec
from lab_tui.model import FleetSpec, LabError
from lab_tui.serving import models
from lab_tui.serving.llama_server import check_extra_args, check_spec
from lab_tui.serving.llama_server import command as instance_command
from lab_tui.serving.parts import LlamaServer

KEY = "0123456789abcdef"
HERE = FleetSpec(model="/m.gguf")


def but(**fields: Any) -> FleetSpec:
    return FleetSpec(model="/m.gguf", **fields)


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False),
     ("::", False), ("127.evil.example", False), ("gpu1", False), ("192.168.1.7", False)],
)  # fmt: skip
def test_beyond_this_machine_a_key_or_a_plain_word_is_wanted(host: str, here: bool, home: Path) -> None:
    assert access.is_loopback(host) == here
    check_spec(but(host=host, insecure=True))
    if here:
        check_spec(but(host=host))
    else:
        with pytest.raises(LabError, match=rf"can reach {host}: that wants an API key: .*--insecure"):
            check_spec(but(host=host))


@pytest.mark.parametrize("host", ["127.0.0.1; }", "a b", "a\nb", "$host", "*", "http://x", "fe80::1%eth0"])
def test_a_host_is_an_address(host: str) -> None:
    with pytest.raises(LabError, match="host is "):
        check_spec(but(host=host))


def test_a_key_is_made_once_and_found_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> None:
    settings = Settings(serve=ServeSettings(host="0.0.0.0"))
    assert fleet_spec(settings, "/m").api_key_file == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    file = paths.api_key_file()
    assert command.spec_from(str(tiny_model), {"host": "0.0.0.0"}, starts=False).host == "0.0.0.0"
    assert not file.exists()  # for what never starts, as a dry run, none is made
    spec = command.spec_from(str(tiny_model), {"host": "0.0.0.0"})
    key = file.read_text().strip()
    assert len(key) >= 40
    assert file.stat().st_mode & 0o777 == 0o600
    assert capsys.readouterr().err.count(key) == 1
    assert spec.api_key_file == str(file)
    assert access.read_keys(spec) == (key,)
    assert command.spec_from(str(tiny_model), {"host": "0.0.0.0"}) == spec
    assert key not in capsys.readouterr().err
    assert fleet_spec(settings, "/m").api_key_file == str(file)  # as the screen has it
    assert command.spec_from(str(tiny_model), {}).api_key_file == ""  # on loopback none is wanted
    assert command.spec_from(str(tiny_model), {"host": "::", "insecure": True}).api_key_file == ""


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"host": "999.1.1.1"}, "cannot listen on 999.1.1.1 for the front"),
        ({"host": "192.0.2.1"}, "cannot listen on 192.0.2.1 for the front"),
        ({"host": "a b"}, "host is 'a b'"),
        ({"host": "0.0.0.0", "instances": 0}, "instances is 0"),
    ],
)
def test_no_key_is_made_for_a_fleet_that_is_refused(
    flags: dict[str, object], says: str, home: Path, tiny_model: Path
) -> None:
    with pytest.raises(LabError, match=says):
        command.spec_from(str(tiny_model), flags)
    assert not paths.api_key_file().exists()


def test_a_key_is_not_written_into_a_log(
    home: Path, capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> None:
    command.spec_from(str(tiny_model), {"host": "0.0.0.0"})
    said = capsys.readouterr().err
    assert paths.api_key_file().read_text().strip() not in said
    assert str(paths.api_key_file()) in said


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0, "cannot read the API key in .*No such file"),
        (KEY, 0o644, "others can read the API key in .*: chmod 600 "),
        ("", 0o600, "has no API keys"),
        (f"{KEY}\nshort\n", 0o600, "has no API keys"),
        (f"{KEY};}}\n", 0o600, "has no API keys"),
        (f'{KEY}"', 0o600, "has no API keys"),
        (f"{KEY}\r\n", 0o600, "has no API keys"),
        ("\udcff" * 16, 0o600, "has no API keys"),
    ],
)
def test_a_file_that_is_not_fit_is_said(content: str | None, mode: int, says: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(os.fsencode(content))
        file.chmod(mode)
    with pytest.raises(LabError, match=says) as caught:
        access.read_keys(but(api_key_file=str(file)))
    assert KEY not in str(caught.value)


def test_what_fits_may_be_asked_before_there_is_a_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TUI_SERVE_HOST", "0.0.0.0")
    assert _usual().host == "0.0.0.0"
    with pytest.raises(LabError, match="that wants an API key"):
        check_spec(_usual())


def test_a_folder_or_a_pipe_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="Is a directory"):
        access.read_keys(but(api_key_file=str(tmp_path)))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for other in (str(pipe), os.devnull):  # nor does it wait for who may write into it
        with pytest.raises(LabError, match=f"{other} is not a plain file"):
            access.read_keys(but(api_key_file=other))


def test_instances_are_handed_the_file_and_a_key_on_the_command_line_is_refused() -> None:
    flags = {"--api-key": "KEY", "--api-key-file": "FNAME", "--hf-token": "TOKEN"}
    build = LlamaServer(command=("llama-server",), source="PATH", version="1", flags=flags)
    words = instance_command(build, but(api_key_file="/a b"), 0)
    assert words[-2:] == ("--api-key-file", "/a b")
    for flag, use in (("--api-key", "--api-key-file"), ("--hf-token", "HF_TOKEN")):
        for given in ((flag, KEY), (f"{flag}={KEY}",)):
            with pytest.raises(LabError, match=rf"{flag} .*: use .*{use}") as caught:
                check_extra_args(build, given)
            assert KEY not in str(caught.value)
    with pytest.raises(LabError, match="takes no --api-key-file"):
        instance_command(
            LlamaServer(command=("x",), source="", version="", flags={}), but(api_key_file="/k"), 0
        )


def test_a_name_that_is_not_unicode_is_said_before_it_is_sent(tmp_path: Path, tiny_model: Path) -> None:
    odd = tmp_path / os.fsdecode(b"m\xff.gguf")
    os.link(tiny_model, odd)
    assert models.find([tmp_path]) == []
    with pytest.raises(LabError, match="is not UTF-8"):
        models.check(odd)
    with pytest.raises(LabError, match="model is not UTF-8"):
        check_spec(FleetSpec(model=str(odd)))
