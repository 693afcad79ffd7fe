"""Where lab-tui keeps its things: the XDG places, all in one file."""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
import tempfile
from pathlib import Path

import platformdirs

from lab_tui.model import LabError

APP = "lab-tui"
LOCK = "engine.lock"  # in the runtime folder: held by the one engine, whose pid is in it
SOCKET_PATH_LIMIT = 104  # bytes; macOS has 104 with the final zero, Linux 108


def expanded(path: str | Path) -> Path:
    """The absolute path of what a user wrote. ``~name`` of nobody stays as it is, as in a shell.

    Raises LabError when it begins at a folder that is no more.
    """
    try:
        return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - pathlib's raises for nobody
    except FileNotFoundError as error:
        raise LabError(f"{path}: the folder that this is run in was removed", "cd to another one") from error


def config_file() -> Path:
    """The TOML settings file, which need not exist."""
    return platformdirs.user_config_path(APP) / "config.toml"


def api_key_file() -> Path:
    """The API key that ``up`` made for fleets that other machines can reach; need not exist."""
    return platformdirs.user_config_path(APP) / "api-key"


def data_dir() -> Path:
    """Where fetched models lie."""
    return platformdirs.user_data_path(APP)


def models_dir() -> Path:
    """Where ``lab-tui models fetch`` puts GGUF files."""
    return data_dir() / "models"


def state_dir() -> Path:
    """The store and the logs: what must outlive a reboot."""
    return platformdirs.user_state_path(APP)


def logs_dir() -> Path:
    """Log files of the engine, the instances and nginx."""
    return state_dir() / "logs"


def copied_file() -> Path:
    """What was copied last, for terminals whose clipboard cannot be reached."""
    return state_dir() / "copied.txt"


def runtime_dir() -> Path:
    """The socket, the lock and nginx's working folder: one per user and HOME, gone after a reboot."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base:
        return Path(base) / APP
    run_user = Path(f"/run/user/{os.getuid()}")
    if run_user.is_dir() and os.access(run_user, os.W_OK):
        return run_user / f"{APP}{_other_home()}"
    return Path(tempfile.gettempdir()) / f"{APP}-{os.getuid()}{_other_home()}"


def _other_home() -> str:
    """What tells the folder of a HOME that is not the user's own; short, for a socket must fit below it."""
    home = os.path.realpath(Path("~").expanduser())
    try:
        own = os.path.realpath(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # nobody has entered this user, as in a container
        own = None
    return "" if home == own else f"-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"


def socket_path() -> Path:
    """The engine's Unix socket.

    Raises LabError when the path is longer than the system allows for a socket.
    """
    path = runtime_dir() / "engine.sock"
    if len(os.fsencode(path)) >= SOCKET_PATH_LIMIT:
        raise LabError(
            f"the socket path {path} is longer than {SOCKET_PATH_LIMIT - 1} bytes",
            "set XDG_RUNTIME_DIR to a shorter folder",
        )
    return path


def ensure_writable(folder: Path, variable: str) -> Path:
    """Make ``folder`` (0700 when new) and prove that a file can be written there.

    ``variable`` names the environment variable that moves it elsewhere. Raises LabError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LabError(
            f"cannot write in {folder} ({error.strerror})",
            f"mend its permissions or set {variable} to a folder that can be written",
        ) from error
    return folder


def ensure_private(folder: Path) -> Path:
    """As ``ensure_writable`` for the runtime folder, which must be ours alone.

    Whoever owns the folder of the socket owns the engine, so a folder that another user made
    first (in a shared /tmp), or led elsewhere by a link, is refused.
    """
    check_ours(folder)
    ensure_writable(folder, "XDG_RUNTIME_DIR")
    check_ours(folder)  # it may have been made by somebody else a moment before
    if stat.S_IMODE(folder.lstat().st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def check_ours(folder: Path) -> None:
    """Raise LabError when ``folder`` is there and a link, no folder, or another user's."""
    try:
        info = folder.lstat()
    except OSError:  # nothing there; what makes it says why it cannot
        return
    if not stat.S_ISDIR(info.st_mode):
        what = "a link" if stat.S_ISLNK(info.st_mode) else "not a folder"
        raise LabError(f"{folder} is {what}", "remove it, or set XDG_RUNTIME_DIR to a folder of your own")
    if info.st_uid != os.getuid():
        raise LabError(f"{folder} belongs to another user", "set XDG_RUNTIME_DIR to a folder of your own")


def css_dir() -> Path:
    """The style sheets: inside an installed package, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "css"
    return inside if inside.is_dir() else here.parent / "css"
