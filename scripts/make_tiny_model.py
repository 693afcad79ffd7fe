#!/usr/bin/env python3
"""Write a llama GGUF with random weights and a byte vocabulary: a real model for fast tests.

It loads and serves in every llama.cpp. What it says means nothing, but it is printable ASCII, one
byte a token, and it never ends by itself, so lengths are exact. The same seed gives the same file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SPECIALS = ("<unk>", "<s>", "</s>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def make_tiny_model(
    out: Path,
    *,
    embd: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int | None = None,
    ctx: int = 8192,
    seed: int = 1,
) -> Path:
    """Write the model to ``out`` and return it: 0.7 MB as it stands, ``--embd 256 --layers 6`` 26 MB."""
    import gguf

    if embd % heads or embd % 2:
        raise ValueError(f"embd {embd} must be even and a multiple of heads {heads}")
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(f"tiny random {embd}x{layers}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(ctx)
    writer.add_embedding_length(embd)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(4 * embd)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads or heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(embd // heads)
    _add_vocabulary(writer)
    for name, tensor in _tensors(embd, layers, embd // heads * (kv_heads or heads), seed).items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _add_vocabulary(writer: Any) -> None:
    """Three specials and every byte as a token of its own."""
    from gguf import TokenType

    writer.add_vocab_size(len(SPECIALS) + 256)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))])
    writer.add_token_scores([0.0] * (len(SPECIALS) + 256))
    writer.add_token_types([TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensors(embd: int, layers: int, kv_embd: int, seed: int) -> dict[str, Any]:
    """Random weights, but for one dimension: it is the same in every state, so the output row of a
    token can like or dislike it. Printable bytes like it, all others and the end token do not.
    """
    import numpy as np

    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Any:
        return (random.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)

    ones = np.ones(embd, dtype=np.float32)
    vocabulary = len(SPECIALS) + 256
    embedding, output = matrix(vocabulary, embd), matrix(vocabulary, embd)
    embedding[:, 0] = 4.0
    printable = slice(len(SPECIALS) + 0x20, len(SPECIALS) + 0x7F)
    output[:, 0] = -8.0
    output[printable, 0] = 8.0
    tensors = {"token_embd": embedding, "output_norm": ones, "output": output}
    for layer in range(layers):
        block = {
            "attn_norm": ones,
            "ffn_norm": ones,
            "attn_q": matrix(embd, embd),
            "attn_k": matrix(kv_embd, embd),
            "attn_v": matrix(kv_embd, embd),
            "attn_output": matrix(embd, embd),
            "ffn_gate": matrix(4 * embd, embd),
            "ffn_up": matrix(4 * embd, embd),
            "ffn_down": matrix(embd, 4 * embd),
        }
        for writes in ("attn_output", "ffn_down"):
            block[writes][0, :] = 0.0  # what adds to the state leaves that dimension alone
        tensors |= {f"blk.{layer}.{name}": tensor for name, tensor in block.items()}
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--embd", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    path = make_tiny_model(
        args.out, embd=args.embd, layers=args.layers, heads=args.heads, ctx=args.ctx, seed=args.seed
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
