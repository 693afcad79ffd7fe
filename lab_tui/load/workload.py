"""What is asked: prompts that no cache knows, of a length that holds, from a seed.

Made-up prompts are rows of common four-letter words. Each is one token to nearly every
vocabulary, and all are equally long, so the number of tokens is a straight line in the number
of characters; where that line runs is found out by asking the server (see probe.py).
"""

from __future__ import annotations

import io
import random
from typing import Any

import msgspec

from lab_tui.files import read_plain
from lab_tui.model import Data, LabError, Workload

_WORDS = """
able arms back ball band bank bean bear bell best bird blue boat body bone book cake call calm camp
card case city club coin cold cool corn crew dark deep deer desk door drum duck duke eyes face fact
fair fall farm fast feel feet film find fire fish food foot free frog full game gate give goal goat
gold good gray grow hair hand hard head hear help hero high hill hold home horn idea join keep kind
king knee know lake land last late leaf life like line lion long look lord loud love main make meat
meet mild milk move name near neck need next nose note open page park part pass path pink play poem
poor port pull push race rail rain read
"""
WORDS = tuple(_WORDS.split())
STEP = 5  # characters of a word and its space
_UNIQUE_WORDS = 3
_NUMBERS = len(WORDS) ** _UNIQUE_WORDS  # requests before a beginning comes again
_OFFSETS = 997
MOST_BYTES = 64 << 20  # of a file of prompts: every worker keeps all of it

Entry = str | list[dict[str, Any]]  # a prompt, or chat messages


class Recipe(Data, frozen=True, kw_only=True):
    """How this server has to be asked, as the probe found it."""

    path: str = "/completion"
    field: str = "tokens_predicted"  # the running token count in a chunk, see reading.TokenStream
    exact: bool = True  # chunks carry that count; else each piece of text is one until the end
    model: str | None = None
    extras: int = 2  # 2: all fields below; 1: only stream_options.include_usage; 0: neither
    characters: int = 320  # of a made-up prompt

    @property
    def chat(self) -> bool:
        """Whether it is asked with messages."""
        return self.path.endswith("/chat/completions")


class Asking:
    """The requests of one worker, one after another: body and asked length.

    Worker ``worker`` of ``workers`` makes every ``workers``-th request, so that all together make the
    same requests whatever their number.
    """

    def __init__(self, workload: Workload, recipe: Recipe, worker: int = 0, workers: int = 1) -> None:
        self._workload = workload
        self._recipe = recipe
        self._number = worker
        self._step = workers
        self._random = random.Random(workload.seed * 1_000_003 + worker)
        self._words = random.Random(workload.seed)
        self._first = self._words.randrange(_NUMBERS)
        words = recipe.characters // STEP + 1 + _OFFSETS
        self._filler = " ".join(self._words.choices(WORDS, k=words))
        self._lines = read_prompts(workload.prompt_file) if workload.prompt_file else []

    def next(self, share: float = 1.0) -> tuple[bytes, int]:
        """The JSON body of the next request and how many tokens it asks for.

        ``share`` shortens the answer: 0.5 asks for half of what it would.
        """
        number = self._take()
        asked = max(1, round(self._length() * share))
        return body(self._workload, self._recipe, self.entry(number), asked, number), asked

    def short(self, tokens: int, slot: int | None) -> bytes:
        """A request for a few tokens, to a certain slot of llama-server where one is named."""
        number = self._take()
        return body(self._workload, self._recipe, self.entry(number), tokens, number, slot)

    def _take(self) -> int:
        number = self._number
        self._number += self._step
        return number

    def entry(self, number: int) -> Entry:
        """What request ``number`` says."""
        beginning = unique_words(self._first, number)
        if not self._lines:
            offset = (number * 7) % _OFFSETS * STEP
            characters = self._recipe.characters
            return (beginning + self._filler[offset : offset + characters])[:characters]
        entry = _entry("a prompt", self._lines[number % len(self._lines)])  # it was checked
        return with_beginning(entry, beginning) if self._workload.unique_prefix else entry

    def _length(self) -> int:
        low, high = self._workload.output_tokens, self._workload.output_tokens_max
        if high is None or high <= low:
            return low
        match self._workload.output_distribution:
            case "normal":  # 95 % of it between the ends, the rest on them
                drawn = self._random.gauss((low + high) / 2, (high - low) / 4)
            case "exponential":  # mostly short, a few long
                drawn = low + self._random.expovariate(3 / (high - low))
            case _:
                drawn = self._random.uniform(low, high)
        return round(min(max(drawn, low), high))


def unique_words(first: int, number: int) -> str:
    """Three words and a space that no other number below two million gives."""
    number = (first + number * 611_953) % _NUMBERS  # an odd prime: every number once
    picked = []
    for _ in range(_UNIQUE_WORDS):
        number, at = divmod(number, len(WORDS))
        picked.append(WORDS[at])
    return " ".join(picked) + " "


def with_beginning(entry: Entry, beginning: str) -> Entry:
    """The same entry with words before everything else it says."""
    if isinstance(entry, str):
        return beginning + entry
    head, *rest = entry
    content = head.get("content")
    return [{**head, "content": beginning + content}, *rest] if isinstance(content, str) else entry


def body(
    workload: Workload, recipe: Recipe, entry: Entry, asked: int, number: int = 0, slot: int | None = None
) -> bytes:
    """The JSON body of one request."""
    fields: dict[str, Any] = {"stream": True, "seed": workload.seed + number}
    if recipe.chat:
        fields["messages"] = [{"role": "user", "content": entry}] if isinstance(entry, str) else entry
    else:
        fields["prompt"] = entry if isinstance(entry, str) else as_text(entry)
    if recipe.path == "/completion":
        fields["n_predict"] = asked
    else:
        fields["max_tokens"] = asked
        fields["model"] = recipe.model or ""
        if recipe.extras >= 1:
            fields["stream_options"] = {"include_usage": True}
        if recipe.extras >= 2:  # usage or timings in every chunk: exact counts while it runs
            fields["stream_options"]["continuous_usage_stats"] = True
            fields["timings_per_token"] = True
    if recipe.extras >= 2:
        fields["cache_prompt"] = workload.cache_prompt
        fields["ignore_eos"] = workload.ignore_eos
    if slot is not None:
        fields["id_slot"] = slot
    return msgspec.json.encode(fields)


def as_text(messages: list[dict[str, Any]]) -> str:
    """Chat messages as one prompt, for an endpoint without a chat template."""
    return "\n".join(str(message.get("content", "")) for message in messages)


def read_prompts(path: str) -> list[bytes]:
    """The lines of a JSONL file, checked: each is ``{"prompt": …}``, ``{"messages": […]}`` or a string.

    They are decoded once more when they are asked: a million lists and dicts would keep the garbage
    collector busy, and every thread waiting, for a fifth of a second at a time.

    A large one takes seconds: not for an event loop. Raises LabError naming the line that is none of
    them, and for a file that is not plain or is larger than ``MOST_BYTES``.
    """
    remedy = f"give a JSONL file of at most {MOST_BYTES >> 20} MB"
    try:
        lines = io.BytesIO(read_plain(path, MOST_BYTES, remedy))
    except OSError as error:
        why = (error.strerror or "cannot be read").lower()
        raise LabError(f"{path}: {why}", "give a JSONL file") from error
    kept = []
    for at, line in enumerate(lines, 1):
        if line.strip():
            _entry(f"{path} line {at}", line)
            kept.append(line)
    if not kept:
        raise LabError(f"{path}: no prompts in it", "give a JSONL file with one prompt a line")
    return kept


def _entry(where: str, line: bytes) -> Entry:
    """What a line says. Raises LabError beginning with ``where``."""
    remedy = 'each line is {"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}'
    try:
        decoded = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LabError(f"{where}: not JSON", remedy) from error
    if isinstance(decoded, dict):
        if "prompt" not in decoded and not isinstance(decoded.get("messages", []), list):
            raise LabError(f"{where}: messages is no list", remedy)
        decoded = decoded.get("prompt", decoded.get("messages"))
    if isinstance(decoded, str) and decoded:
        return decoded
    if isinstance(decoded, list) and decoded and all(_is_message(item) for item in decoded):
        return decoded
    raise LabError(f"{where}: neither a prompt nor messages", remedy)


def _is_message(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("role"), str) and "content" in item
