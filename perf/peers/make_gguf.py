"""Writes a GGUF file of a known model's shapes with random Q4_0 weights, to measure llama.cpp's speed.

usage: make_gguf.py SHAPE OUT        SHAPE: llama2-7b, llama3-8b, tinyllama-1.1b

All matrices are Q4_0, embedding and output too; the text such a model makes is noise. Tensors are
made and written one at a time. Run by compare.sh inside the peers' root; needs python3-gguf.
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

#         layers, hidden, mlp, heads, kv_heads, vocabulary, context, rope base
SHAPES = {
    "llama2-7b": (32, 4096, 11008, 32, 32, 32000, 4096, 1e4),
    "llama3-8b": (32, 4096, 14336, 32, 8, 128256, 8192, 5e5),
    "tinyllama-1.1b": (22, 2048, 5632, 32, 4, 32000, 2048, 1e4),
}
BLOCK, BLOCK_BYTES = 32, 18  # weights a Q4_0 block; an fp16 scale and 32 nibbles


def tensors(layers, hidden, mlp, kv_width, vocabulary):
    """Name and shape of every tensor, in file order: (n, k) matrices and (n,) norms."""
    yield "token_embd.weight", (vocabulary, hidden)
    for i in range(layers):
        for name, shape in {
            "attn_norm": (hidden,),
            "attn_q": (hidden, hidden),
            "attn_k": (kv_width, hidden),
            "attn_v": (kv_width, hidden),
            "attn_output": (hidden, hidden),
            "ffn_norm": (hidden,),
            "ffn_gate": (mlp, hidden),
            "ffn_up": (mlp, hidden),
            "ffn_down": (hidden, mlp),
        }.items():
            yield f"blk.{i}.{name}.weight", shape
    yield "output_norm.weight", (hidden,)
    yield "output.weight", (vocabulary, hidden)


def random_q4_0(n, k, random):
    blocks = random.integers(0, 256, (n, k // BLOCK, BLOCK_BYTES), np.uint8)
    scale = np.float16(1 / np.sqrt(k * 21.25))  # 21.25: the variance of 0..15
    blocks[:, :, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    return blocks.reshape(n, -1)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        raise SystemExit(__doc__)
    layers, hidden, mlp, heads, kv_heads, vocabulary, context, base = SHAPES[sys.argv[1]]
    writer = GGUFWriter(sys.argv[2], "llama")
    writer.add_name(sys.argv[1])
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("none")

    listed = list(tensors(layers, hidden, mlp, hidden // heads * kv_heads, vocabulary))
    for name, shape in listed:
        if len(shape) == 1:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), shape[0] * 4)
            continue
        row = (shape[0], shape[1] // BLOCK * BLOCK_BYTES)  # of bytes
        writer.add_tensor_info(
            name, row, np.dtype(np.uint8), row[0] * row[1], GGMLQuantizationType.Q4_0
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(1)
    for _, shape in listed:
        one = np.ones(shape, np.float32) if len(shape) == 1 else random_q4_0(*shape, random)
        writer.write_tensor_data(one)
    writer.close()


main()
