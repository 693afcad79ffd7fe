"""Before a measurement: can the target be asked at all, how, and how long are its tokens.

A handful of single requests, outside of any window, so they may be repeated.
"""

from __future__ import annotations

import asyncio
from time import monotonic

import msgspec

from lab_tui.load.backends import Backends, Props
from lab_tui.load.http import Broken, Fetch, parse_url, request_bytes
from lab_tui.load.plan import LoadPlan
from lab_tui.load.reading import TokenStream
from lab_tui.load.tally import Answer, Tally
from lab_tui.load.workload import STEP, Asking, Recipe, body
from lab_tui.model import Data, LabError, Workload

TRIES = 3
PROBE_TOKENS = 4
CALIBRATIONS = 7
GROWTH = 8  # a prompt is at most so many times as long as the one before
CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
LLAMA = "/completion"

_REMEDIES = {
    "connection refused": "start it, or give the right host and port",
    "host not found": "check the host name",
    "connect timed out": "check host, port and firewall",
    "TLS failed": "trust its certificate (SSL_CERT_FILE=FILE lab-tui engine run), or give http://",
    "HTTP 401": "give its API key (--api-key)",
    "HTTP 403": "give an API key that may do this (--api-key)",
    "HTTP 404": "give the base URL that its OpenAI clients have, such as http://host:8000/v1",
    "HTTP 429": "it limits requests: lower the concurrency or wait",
    "HTTP 503": "wait until its model is loaded",
}


class Found(Data, frozen=True, kw_only=True):
    """What the probe found out."""

    recipe: Recipe
    slots: tuple[tuple[str, int], ...] = ()  # cold ones: address, number
    slots_total: int | None = None
    prompt_tokens: int | None = None  # of a prompt as it will be sent
    flags: tuple[str, ...] = ()


async def probe(plan: LoadPlan, backends: Backends) -> Found:
    """How the target is to be asked.

    Raises LabError when it cannot be: it does not answer, refuses, is no token stream, or a request
    would not fit into a slot.
    """
    found = await asyncio.gather(*(_props(backends, at) for at in range(len(backends.list))))
    cold = tuple(
        (backend.address, slot)
        for backend, props in zip(backends.list, found, strict=True)
        for slot in props.cold
    )
    known = [props.slots for props in found if props.slots is not None]
    contexts = [props.slot_tokens for props in found if props.slot_tokens]
    context = min(contexts, default=None)
    check_fits(plan.workload, context)
    recipe = await _recipe(plan)
    if plan.workload.prompt_file:
        prompt_tokens = None
    else:
        recipe, prompt_tokens = await _calibrate(plan, recipe, context)
    flags = []
    if recipe.extras < 2 and plan.workload.ignore_eos:
        flags.append("the server does not take ignore_eos: answers may end early")
    return Found(
        recipe=recipe,
        slots=cold,
        slots_total=sum(known) if known and len(known) == len(found) else None,
        prompt_tokens=prompt_tokens,
        flags=tuple(flags),
    )


def check_fits(workload: Workload, context: int | None) -> None:
    """Raise LabError when prompt and answer cannot fit into a slot of ``context`` tokens."""
    longest = max(workload.output_tokens, workload.output_tokens_max or 0)
    prompt = 0 if workload.prompt_file else workload.prompt_tokens
    if context is not None and prompt + longest > context:
        raise LabError(
            f"a prompt of {prompt} and an answer of {longest} tokens do not fit into a slot of {context}",
            "ask for fewer tokens or give the slots more context",
        )


async def _props(backends: Backends, at: int) -> Props:
    backend = backends.list[at]
    try:
        return await backends.props(backend)
    except Broken as error:
        raise LabError(
            f"instance {backend.index} at {backend.address}: {error.kind}", "is it up and ready?"
        ) from error


async def _recipe(plan: LoadPlan) -> Recipe:
    """The endpoint, the model and the extra fields the server takes."""
    endpoint = plan.workload.endpoint
    if plan.target.dialect == "llama" and endpoint != "chat":
        recipe = Recipe(path=LLAMA, field="tokens_predicted", characters=_short(plan.workload))
        await _sure(plan, recipe)
        return recipe
    model = plan.target.model or await _first_model(plan)
    paths = {"chat": [CHAT], "completion": [COMPLETION]}.get(endpoint, [CHAT, COMPLETION])
    answer, stream = None, None
    for path in paths:
        for extras in (2, 1, 0):
            recipe = Recipe(
                path=path,
                field="completion_tokens",
                model=model,
                extras=extras,
                characters=_short(plan.workload),
            )
            answer, stream = await _ask(plan, recipe)
            if not answer.kind:
                field = stream.counted_by or recipe.field
                return msgspec.structs.replace(recipe, field=field, exact=bool(stream.counted_by))
            if answer.kind not in ("HTTP 400", "HTTP 404", "HTTP 405", "HTTP 422", "HTTP 501"):
                raise _refusal(plan, answer)
            if answer.kind not in ("HTTP 400", "HTTP 422"):
                break  # no such endpoint: fewer fields do not help
    assert answer is not None
    raise _refusal(plan, answer)


async def _first_model(plan: LoadPlan) -> str | None:
    fetch = Fetch(parse_url(plan.target.url), plan.limits.connect_s)
    try:
        page = await fetch.get("/v1/models", plan.target.api_key)
        return msgspec.json.decode(page, type=_Models).data[0].id
    except (Broken, msgspec.DecodeError, UnicodeDecodeError, IndexError):
        return None  # a server of one model needs no name; another one will say so
    finally:
        fetch.abort()


async def _calibrate(plan: LoadPlan, recipe: Recipe, context: int | None) -> tuple[Recipe, int | None]:
    """How many characters make the asked prompt, and how many tokens that one has.

    Two short prompts give the slope and what the server adds (a beginning-of-text token, a chat
    template). From there prompts grow towards the right length in bounded steps, each of them
    straightening the line, so that no guess runs over the slot.
    """
    wanted = plan.workload.prompt_tokens
    points: list[tuple[int, int]] = []
    characters = _short(plan.workload)
    while len(points) < CALIBRATIONS:
        answer = await _sure(plan, msgspec.structs.replace(recipe, characters=characters))
        if answer.prompt_tokens is None:  # the server does not count: one word, one token
            return msgspec.structs.replace(recipe, characters=wanted * STEP), None
        points.append((characters, answer.prompt_tokens))
        characters = _next_length(wanted, points)
        if characters in {length for length, _ in points}:
            break
    characters, tokens = min(points, key=lambda point: abs(point[1] - wanted))
    longest = max(plan.workload.output_tokens, plan.workload.output_tokens_max or 0)
    if context is not None and tokens + longest > context:
        raise LabError(
            f"a prompt of {tokens} tokens (the shortest near {wanted}) and an answer of {longest}"
            f" do not fit into a slot of {context}",
            "ask for fewer tokens or give the slots more context",
        )
    return msgspec.structs.replace(recipe, characters=characters), tokens


def _next_length(wanted: int, points: list[tuple[int, int]]) -> int:
    """The length in characters to try next, by the line through the two points farthest apart."""
    (near, few), (far, many) = min(points), max(points)
    if far == near:
        return max(1, far // 2)
    slope = (many - few) / (far - near) if many > few else 1 / STEP
    return max(1, min(round(far + (wanted - many) / slope), GROWTH * far))


def _short(workload: Workload) -> int:
    """Characters of a first prompt, surely not too long: no character is more than one token."""
    return max(2, min(workload.prompt_tokens, 12 * STEP))


async def _sure(plan: LoadPlan, recipe: Recipe) -> Answer:
    """The answer to one short request. Raises LabError when none of three tries brings one."""
    for attempt in range(TRIES):
        answer, _ = await _ask(plan, recipe)
        if not answer.kind:
            return answer
        if answer.kind.startswith("HTTP 4") and answer.kind != "HTTP 429":
            break  # asking again would not help
        if attempt < TRIES - 1:
            await asyncio.sleep(0.1 * 4**attempt)
    raise _refusal(plan, answer)


async def _ask(plan: LoadPlan, recipe: Recipe) -> tuple[Answer, TokenStream]:
    target = plan.target
    origin = parse_url(target.url)
    stream = TokenStream(origin, Tally(), recipe.field, plan.limits.connect_s)
    asking = await asyncio.to_thread(Asking, plan.workload, recipe)  # reads the file of prompts
    entry = asking.entry(_next_number())
    tokens = PROBE_TOKENS if recipe.path != LLAMA else 1
    content = body(plan.workload, recipe, entry, tokens)
    request = request_bytes(origin, recipe.path, target.api_key, content)
    begun = monotonic()
    try:
        async with asyncio.timeout(plan.limits.silence_s):
            return await stream.ask(request, begun, PROBE_TOKENS), stream
    except TimeoutError as error:
        raise LabError(
            f"{target.url}: no answer to a short request in {plan.limits.silence_s:.0f} s",
            "is it a token server, and is it stuck or overloaded?",
        ) from error
    finally:
        stream.abort()


def _refusal(plan: LoadPlan, answer: Answer) -> LabError:
    said = f": {answer.detail}" if answer.detail else ""
    remedy = _REMEDIES.get(answer.kind, "")
    if answer.kind.startswith(("not a stream", "not HTTP", "no tokens")):
        remedy = "give the base URL of an OpenAI-compatible server"
    return LabError(f"{plan.target.url}: {answer.kind}{said}", remedy)


_numbers = iter(range(1_000_000, 1 << 62))


def _next_number() -> int:
    """A request number that no measured request has, so that its prompt is in no cache."""
    return next(_numbers)


class _Model(Data, frozen=True):
    id: str


class _Models(Data, frozen=True):
    data: list[_Model]
