"""Models in GGUF files are the models that the files were made of."""

from __future__ import annotations

import os
from functools import reduce
from pathlib import Path

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from coolfusion import FusionModel
from coolfusion.backends.huggingface import load_source
from coolfusion.backends.huggingface.loading import _load_model, load_tokenizer
from coolfusion.errors import LoadError

pytest.importorskip("accelerate", reason="the extra gguf is not installed")
gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
ALPHABET = sorted(ByteLevel.alphabet())
PAIR = os.environ.get("COOLFUSION_PAIR")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    "model.layers.": "blk.",
}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(ALPHABET) + 3,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def file(model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write(path, model)
    return path


def write(path: Path, model: LlamaForCausalLM, arch: str = "llama") -> None:
    """The model and a byte-level vocabulary, as llama.cpp would convert them."""
    config, writer = model.config, gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<|endoftext|>", *ALPHABET, "th", "the"]
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for theirs, tensor in model.state_dict().items():
        name = reduce(lambda text, pair: text.replace(*pair), NAMES.items(), theirs)
        kind, stored = name.split(".")[-2], tensor
        if kind in heads:  # llama.cpp rotates pairs of neighbours, and transformers two halves
            halves = tensor.reshape(heads[kind], 2, -1, tensor.shape[1])
            stored = halves.transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(name, stored.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_file_is_the_model_that_it_was_made_of(model: LlamaForCausalLM, file: Path) -> None:
    read = _load_model(file, "cpu", None, False, {})
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, model(ids).logits, rtol=0, atol=1e-6)


def test_its_tokenizer_and_template_come_with_it(file: Path) -> None:
    tokenizer = load_tokenizer(file)
    assert [tokenizer.piece(token) for token in tokenizer.encode("the hat")] == [
        *(b"the", b" ", b"h", b"a", b"t"),
    ]
    assert tokenizer.end_ids == {0}
    (*_, last) = tokenizer.encode_prompt([{"role": "user", "content": "x"}])
    assert tokenizer.piece(last) == b"x"


def test_files_are_fused_as_folders_are(file: Path) -> None:
    fusion = FusionModel.from_pretrained([file, file.parent], names=["one", "two"])
    alone = FusionModel([load_source(file, "one")]).generate("the hat", max_new_tokens=9)
    fused = fusion.generate("the hat", max_new_tokens=9)
    assert (fused.text, fused.stop_reason) == (alone.text, alone.stop_reason)


def test_broken_files_are_named(file: Path, model: LlamaForCausalLM, tmp_path: Path) -> None:
    short, alien = tmp_path / "short.gguf", tmp_path / "alien.gguf"
    write(alien, model, arch="martian")
    for keep in (100, 3000, file.stat().st_size // 2):
        short.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(LoadError, match=r'short.gguf".*may be cut short'):
            load_source(short, "x")
    with pytest.raises(LoadError, match=r'alien.gguf".*martian'):
        load_source(alien, "x")


@pytest.mark.skipif(PAIR is None, reason="COOLFUSION_PAIR is not set")
def test_the_real_file_is_the_folder_that_was_made_of_it() -> None:
    root = Path(str(PAIR))
    folder, file = root / "smollm2-135m-instruct", root / "SmolLM2-135M-Instruct.Q4_1.gguf"
    ours, theirs = (_load_model(each, "cpu", "bfloat16", False, {}) for each in (file, folder))
    named = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, named[name]), name
    left, right = load_tokenizer(file), load_tokenizer(folder)
    text = "The 12 old boats, d\u00e9j\u00e0 vu \u65e5\u672c\n\n  end"
    assert left.encode(text) == right.encode(text)
    chat = [{"role": "user", "content": text}]
    assert left.encode_prompt(chat) == right.encode_prompt(chat)
