"""What of a model decides how much memory an instance takes, from the headers of its GGUF files.

The rules are llama.cpp's (llama-hparams, llama-kv-cache, llama-kv-cache-iswa, llama-memory-recurrent).
An architecture that is not known to use windows or recurrent layers is counted as if every layer
kept every token: rather too much than too little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab_tui.model import Data
from lab_tui.serving import models
from lab_tui.serving.gguf_header import Header, Value

# Architectures that llama.cpp gives a windowed cache without the file saying which layers have it:
# of so many layers, all but the last.
WINDOW_PERIODS = {"cohere2": 4, "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "olmo2": 4}
STATE_NUMBER_BYTES = 4  # recurrent states are F32


class Layer(Data, frozen=True, kw_only=True):
    """What one layer keeps."""

    k: int  # numbers of each token in the K cache
    v: int  # and in the V cache
    head_k: int = 0  # of one head, of `k`; 0: it has none
    head_v: int = 0
    windowed: bool = False  # keeps only the last `window` tokens
    state_bytes: int = 0  # of each slot, whatever its length


class Shape(Data, frozen=True, kw_only=True):
    """A model, as far as its memory goes. Numbers are counts unless named otherwise."""

    weights: dict[str, dict[str, int]]  # bytes by place ("blk.0", …, "token_embd", "output") and ggml type
    layers: tuple[Layer, ...]
    window: int  # tokens that a windowed layer keeps
    vocabulary: int  # tokens
    embedding: int
    feed_forward: int  # widest hidden layer that one token goes through, all its experts together
    heads: int


def read_shape(path: str | Path) -> Shape:
    """The shape of the model at ``path``, all its parts together. Raises LabError as ``models.check``."""
    return shape(models.headers(path))


def shape(headers: Sequence[Header]) -> Shape:
    """The shape that the headers of all parts tell; what they do not state counts as 0."""
    keys = _Keys(headers[0])
    weights: dict[str, dict[str, int]] = {}
    for header in headers:
        for place, types in header.weights.items():
            there = weights.setdefault(place, {})
            for name, size in types.items():
                there[name] = there.get(name, 0) + size
    return Shape(
        weights=weights,
        layers=tuple(_layer(keys, index) for index in range(keys.layers)),
        window=keys.number("attention.sliding_window"),
        vocabulary=headers[0].lengths.get("tokenizer.ggml.tokens", 0) or keys.number("vocab_size"),
        embedding=keys.number("embedding_length"),
        feed_forward=max(keys.widest("feed_forward_length"), _experts(keys)),
        heads=keys.widest("attention.head_count"),
    )


def _experts(keys: _Keys) -> int:
    """The hidden width of all experts that one token is sent to."""
    each = keys.widest("expert_feed_forward_length") or keys.widest("feed_forward_length")
    return keys.number("expert_used_count") * each


class _Keys:
    """The keys of one architecture. 0, which some writers put for "none", counts as not stated."""

    def __init__(self, header: Header) -> None:
        self.architecture = str(header.fields.get("general.architecture", ""))
        self._fields: Mapping[str, Value] = header.fields
        # Layers that predict further tokens come after these and are not run.
        self.layers = self.number("block_count") - self.number("nextn_predict_layers")

    def number(self, key: str, index: int = 0) -> int:
        """The number of layer ``index``, the same for all where there is one; 0 when not stated."""
        value = self._fields.get(f"{self.architecture}.{key}", 0)
        if isinstance(value, tuple):
            value = value[index] if index < len(value) else 0
        return int(value) if isinstance(value, int) else 0

    def listed(self, key: str) -> bool:
        """Whether the key has one number a layer."""
        return isinstance(self._fields.get(f"{self.architecture}.{key}"), tuple)

    def widest(self, key: str) -> int:
        """The largest number of any layer."""
        return max((self.number(key, index) for index in range(self.layers)), default=0)


def _layer(keys: _Keys, index: int) -> Layer:
    state = _state_numbers(keys)
    recurrent = _recurrent(keys, index)
    both = keys.architecture == "falcon-h1"  # attention and a state in every layer
    if recurrent and not both:
        return Layer(k=0, v=0, state_bytes=STATE_NUMBER_BYTES * state)
    windowed = _windowed(keys, index)
    k, v = _head(keys, "key_length", index, windowed), _head(keys, "value_length", index, windowed)
    kv_heads = keys.number("attention.head_count_kv", index)
    if not kv_heads and not keys.listed("attention.head_count_kv"):
        kv_heads = keys.number("attention.head_count", index)
    if keys.number("attention.key_length_mla"):
        v = 0  # multi-head latent attention reads the values out of the K cache
    if index >= keys.layers - keys.number("attention.shared_kv_layers"):
        k = v = 0  # uses the cache of an earlier layer
    return Layer(
        k=k * kv_heads,
        v=v * kv_heads,
        head_k=k,
        head_v=v,
        windowed=windowed,
        state_bytes=STATE_NUMBER_BYTES * state if both else 0,
    )


def _head(keys: _Keys, key: str, index: int, windowed: bool) -> int:
    """Numbers of one head: stated, else the embedding shared out among the heads."""
    stated = keys.number(f"attention.{key}_swa") if windowed else 0
    stated = stated or keys.number(f"attention.{key}")
    heads = keys.number("attention.head_count", index)
    return stated or (keys.number("embedding_length") // heads if heads else 0)


def _windowed(keys: _Keys, index: int) -> bool:
    if not keys.number("attention.sliding_window"):
        return False
    if keys.listed("attention.sliding_window_pattern"):
        return bool(keys.number("attention.sliding_window_pattern", index))
    period = WINDOW_PERIODS.get(keys.architecture, 0)
    if period:
        period = keys.number("attention.sliding_window_pattern") or period
    return bool(period) and index % period < period - 1


def _recurrent(keys: _Keys, index: int) -> bool:
    """Whether a layer keeps a state in place of a cache."""
    if not _state_numbers(keys):
        return False
    if keys.listed("attention.recurrent_layers") or keys.number("attention.recurrent_layers"):
        return bool(keys.number("attention.recurrent_layers", index))
    period = keys.number("full_attention_interval")
    if period:
        return (index + 1) % period != 0
    only_feeds_forward = keys.listed("feed_forward_length") and keys.number("feed_forward_length", index)
    return not keys.number("attention.head_count_kv", index) and not only_feeds_forward


def _state_numbers(keys: _Keys) -> int:
    """Numbers of one slot's state in a recurrent layer (llama_hparams::n_embd_r and n_embd_s)."""
    embedding = keys.number("embedding_length")
    if keys.number("wkv.head_size"):  # RWKV
        return embedding * ((keys.number("token_shift_count") or 2) + keys.number("wkv.head_size"))
    if keys.number("shortconv.l_cache"):  # LFM2
        return embedding * (keys.number("shortconv.l_cache") - 1)
    inner, size = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    convolved = inner + 2 * keys.number("ssm.group_count") * size
    return max(keys.number("ssm.conv_kernel") - 1, 0) * convolved + size * inner
