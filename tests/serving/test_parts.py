"""Which llama-server and nginx are taken, and what builds of two eras say they can do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from lab_tui.config import ServeSettings, Settings
from lab_tui.model import LabError
from lab_tui.serving import parts
from lab_tui.serving.parts import Found, LlamaServer, parse_flags

from .conftest import embedded_nginx
from .helpers import processes_with, script
from .helptexts import HELP_2024, HELP_2026

FAKE = f"""case "$1" in
--help) cat <<'END'
{HELP_2024}
END
;; --version) echo 'version: 4120 (1e58ee13)' >&2 ;; esac"""
FAKE_NGINX = "echo 'nginx version: nginx/1.22.1' >&2"


def configured(llama_server: str = "", nginx: str = "") -> Settings:
    return Settings(serve=ServeSettings(llama_server=llama_server, nginx=nginx))


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder with a llama-server or an nginx on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    monkeypatch.setattr(parts, "NGINX_PLACES", ())
    if any(
        Path(place, name).exists() for place in ("/bin", "/usr/bin") for name in ("nginx", "llama-server")
    ):
        pytest.skip("there is one in /usr/bin")
    return folder


# --- which one ----------------------------------------------------------------------------------


def test_configured_then_path_then_embedded(on_path: Path, tmp_path: Path) -> None:
    found = parts.find_llama_server(configured())
    assert (found.source, found.command) == (
        "embedded",
        (sys.executable, "-m", "lab_tui.serving.embedded"),
    )
    assert parts.find_nginx(configured()) == Found(command=(embedded_nginx(),), source="embedded")
    server, nginx = script(on_path / "llama-server", FAKE), script(on_path / "nginx", FAKE_NGINX)
    assert parts.find_llama_server(configured()) == Found(command=(str(server),), source="PATH")
    assert parts.find_nginx(configured()) == Found(command=(str(nginx),), source="PATH")
    own = script(tmp_path / "mine", FAKE)
    settings = configured(str(own), str(own))
    assert parts.find_llama_server(settings) == Found(command=(str(own),), source="configured")
    assert parts.find_nginx(settings) == Found(command=(str(own),), source="configured")


def test_nginx_is_also_looked_for_where_users_have_no_path(
    on_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nginx = script(tmp_path / "nginx", FAKE_NGINX)
    monkeypatch.setattr(parts, "NGINX_PLACES", ("/none/nginx", str(nginx)))
    assert parts.find_nginx(configured()).command == (str(nginx),)


def test_a_configured_path_may_be_relative_or_of_the_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "my-server", FAKE)
    monkeypatch.chdir(tmp_path)
    assert parts.find_llama_server(configured("my-server")).command == (str(tmp_path / "my-server"),)
    script(home / "my-server", FAKE)
    assert parts.find_llama_server(configured("~/my-server")).command == (str(home / "my-server"),)


def test_what_is_configured_wrongly_is_named(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    for key, find in (("serve.llama_server", parts.find_llama_server), ("serve.nginx", parts.find_nginx)):
        with pytest.raises(LabError, match=rf"{key}: /none does not exist"):
            find(configured("/none", "/none"))
        with pytest.raises(LabError, match=rf"{key}: .*plain is not executable: chmod \+x .*plain"):
            find(configured(str(plain), str(plain)))
        with pytest.raises(LabError, match="does not exist"):
            find(configured(str(tmp_path), str(tmp_path)))


def test_what_is_missing_names_the_command_that_installs_it(
    on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"no llama-server found: .*pip install 'lab-tui\[embedded\]'"):
        parts.find_llama_server(configured())
    with pytest.raises(LabError, match=r"no nginx found: apt install nginx.*pip install"):
        parts.find_nginx(configured())


# --- what it can do -----------------------------------------------------------------------------


async def test_probe_of_the_embedded_one() -> None:
    found = Found(command=(sys.executable, "-m", "lab_tui.serving.embedded"), source="embedded")
    build = await parts.probe_llama_server(found)
    assert build.version.startswith("xllamacpp 20")
    assert build.source == "embedded"
    for flag in ("--model", "-np", "--kv-unified", "--no-kv-unified", "--cache-ram", "--fit", "--flash-attn"):
        assert build.knows(flag), flag
    assert not build.knows("--draft")


async def test_probe_of_a_build_of_2024(tmp_path: Path) -> None:
    build = await parts.probe_llama_server(
        Found(command=(str(script(tmp_path / "s", FAKE)),), source="configured")
    )
    assert build.version == "4120 (1e58ee13)"
    assert build.knows("--flash-attn")
    assert not build.knows("--kv-unified")


async def test_probe_of_both_nginx(any_nginx: str) -> None:
    build = await parts.probe_nginx(Found(command=(any_nginx,), source="PATH"))
    assert build.version >= (1, 18)
    assert build.version_text == ".".join(map(str, build.version))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("kill -SEGV $$", "exit code -11"),
        ("echo error while loading shared libraries: libcuda.so >&2; exit 127", r"libcuda\.so"),
        ("exit 0", "exit code 0"),
        ("echo hello", "hello"),
    ],
)
async def test_one_that_does_not_run_says_why(tmp_path: Path, body: str, why: str) -> None:
    found = Found(command=(str(script(tmp_path / "broken", body)),), source="configured")
    with pytest.raises(LabError, match=rf"broken does not answer --help .*{why}"):
        await parts.probe_llama_server(found)
    with pytest.raises(LabError, match=rf"broken does not answer -V .*{why}"):
        await parts.probe_nginx(found)


async def test_one_that_hangs_is_given_up_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PROBE_TIMEOUT_S", 0.3)
    # Its folder is in the command line of both the shell and what follows it.
    found = Found(command=(str(script(tmp_path / "s", f"exec tail -f {tmp_path / 's'}")),), source="PATH")
    with pytest.raises(LabError, match="did not answer within"):
        await parts.probe_nginx(found)
    assert not processes_with(str(tmp_path))


async def test_one_of_another_machine(tmp_path: Path) -> None:
    binary = tmp_path / "alien"
    binary.write_bytes(b"\x7fELF" + bytes(100))
    binary.chmod(0o755)
    with pytest.raises(LabError, match=r"cannot run .*alien: Exec format error"):
        await parts.probe_llama_server(Found(command=(str(binary),), source="configured"))


async def test_survey_shows_all_and_never_raises(tmp_path: Path, only_embedded: None) -> None:
    good = await parts.survey(configured())
    assert [(part.name, part.found) for part in good] == [("llama-server", True), ("nginx", True)]
    assert all(part.version and part.command and part.source for part in good)
    bad = await parts.survey(configured("/none", str(script(tmp_path / "n", "exit 1"))))
    assert [part.found for part in bad] == [False, False]
    assert all(part.problem and part.remedy for part in bad)


# --- help texts ---------------------------------------------------------------------------------


def test_flags_of_2026() -> None:
    flags = parse_flags(HELP_2026)
    assert flags["--flash-attn"] == flags["-fa"] == "[on|off|auto]"
    assert flags["-kvu"] == flags["--no-kv-unified"] == ""
    assert flags["--parallel"] == flags["-np"] == "N"
    assert flags["--cache-ram"] == "N"
    assert flags["--fit"] == "[on|off]"
    assert flags["--model"] == "FNAME"
    assert flags["--gpu-layers"] == flags["--n-gpu-layers"] == "N"
    assert flags["--cpu-strict"] == "<0|1>"
    assert flags["--metrics"] == ""
    assert "--override" not in flags


def test_flags_of_2024() -> None:
    flags = parse_flags(HELP_2024)
    assert flags["--flash-attn"] == flags["-fa"] == ""
    assert flags["--threads-http"] == "N"
    assert flags["--slots"] == flags["--metrics"] == ""
    assert flags["-m"] == "FNAME"
    for unknown in ("--kv-unified", "--fit", "--cache-ram", "--no-webui"):
        assert unknown not in flags


def test_flags_of_the_embedded_one_are_what_it_takes() -> None:
    from lab_tui.serving import embedded

    flags = parse_flags(embedded.usage())
    assert {name: flag.value for name, flag in embedded.BY_NAME.items()}.items() <= flags.items()


def test_no_flags_in_anything_else() -> None:
    assert parse_flags("") == {}
    assert parse_flags("bash: llama-server: not found\n  --indented text\n- a list\n-- dashes") == {}
    assert not LlamaServer(command=("x",), source="PATH", version="", flags={}).knows("--port")
