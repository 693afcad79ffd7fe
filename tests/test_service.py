"""The engine as a systemd user unit: written, taken, and what is said where there is no systemd."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab_tui.cli import service
from lab_tui.model import LabError


@pytest.fixture
def systemctl(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that writes down what it is told, and fails while ``broken`` is beside it; the record."""
    folder, record = home / "bin", home / "told"
    folder.mkdir()
    for name, answer in (("systemctl", "enabled"), ("loginctl", "no")):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\necho {name} "$@" >>{record}\n'
            f"[ -e {folder}/broken ] && {{ echo 'Failed to connect to bus: No medium found' >&2; exit 1; }}\n"
            f"echo {answer}\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return record


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("hard", ["", 'it\'s "100%" $HOME \\ ;'])
def test_systemd_takes_the_unit(hard: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TUI_SERVE_MODEL", f"/models/{hard}.gguf")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    unit = home / service.NAME
    unit.write_text(service.unit_text())
    assert "secret" not in unit.read_text()
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def running() -> bool:
    return True


def test_installed_seen_and_removed(
    systemctl: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = home / ".config" / "systemd" / "user" / service.NAME
    monkeypatch.setenv("LAB_TUI_SERVE_HOST", "::1")
    service.install()
    text = unit.read_text()
    assert f"ExecStart=:{sys.executable} -m lab_tui.engine.daemon\n" in text
    assert "Environment=LAB_TUI_SERVE_HOST=::1\n" in text
    assert "KillMode=process" in text
    told = ["systemctl --user daemon-reload", f"systemctl --user enable --now {service.NAME}"]
    assert systemctl.read_text().splitlines()[:2] == told
    assert "loginctl enable-linger" in capsys.readouterr().err
    service.install()  # again, over what is its own
    assert "the engine runs" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(service, "_engine_runs", running)
        service.install()
    assert f"engine stop --keep-fleet && systemctl --user start {service.NAME}" in capsys.readouterr().err
    assert f"systemctl --user enable {service.NAME}" in systemctl.read_text().splitlines()
    service.status()
    assert capsys.readouterr().out.splitlines() == [
        f"installed  {unit}", "enabled  enabled", "active   enabled", "lingers  no"
    ]  # fmt: skip
    systemctl.unlink()
    service.remove()
    assert not unit.exists()
    assert systemctl.read_text().splitlines()[:2] == [
        f"systemctl --user disable {service.NAME}",
        "systemctl --user daemon-reload",
    ]
    with pytest.raises(LabError, match=r"there is no .*lab-tui.service: `lab-tui service install`"):
        service.remove()


def test_it_is_removed_also_where_systemd_does_not_answer(
    systemctl: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.install()
    units = home / ".config" / "systemd" / "user"
    wanted = units / "default.target.wants" / service.NAME
    wanted.parent.mkdir()
    wanted.symlink_to(units / service.NAME)
    (systemctl.parent / "bin" / "broken").touch()
    service.remove()
    assert not wanted.is_symlink() and not (units / service.NAME).exists()
    assert "No medium found: systemd forgets the unit when you log in again" in capsys.readouterr().err


def test_a_unit_of_somebody_else_is_left_alone(systemctl: Path, home: Path) -> None:
    unit = home / ".config" / "systemd" / "user" / service.NAME
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\n")
    for command in (service.install, service.remove):
        with pytest.raises(LabError, match="is not of lab-tui"):
            command()
    assert unit.read_text() == "[Unit]\n"


def test_without_systemd_the_way_out_is_said(systemctl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (systemctl.parent / "bin" / "broken").touch()
    with pytest.raises(LabError, match=r"daemon-reload: Failed to connect to bus.*: log in as this user"):
        service.install()
    monkeypatch.setenv("PATH", "/nowhere")
    for platform, says in (
        ("linux", "no systemctl.*let your own service manager run"),
        ("darwin", "launch agent"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        for command in (service.install, service.remove, service.status):
            with pytest.raises(LabError, match=rf"{says}.* -m lab_tui.engine.daemon"):
                command()
