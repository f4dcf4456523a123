"""Tiny encoder-decoder models of several architectures, random or trained, and their folders."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import processors

from coolfusion.testing.toys import END, toy_tokenizer

VOCAB = 97
BART_LIKE = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
}
T5_LIKE = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "t5": T5_LIKE,
    "bart": BART_LIKE,
    "m2m_100": BART_LIKE,
    "marian": {
        **BART_LIKE,
        "decoder_vocab_size": 83,
        "share_encoder_decoder_embeddings": False,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
}
OTHERS: dict[str, dict[str, Any]] = {
    "nllb-moe": {**BART_LIKE, "num_experts": 2},
    "switch_transformers": {**T5_LIKE, "num_experts": 2},
    "prophetnet": {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
        "max_position_embeddings": 64,
    },
}


def make_model(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A random model; weights are spread so that its picks differ from place to place."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, **{**{**CONFIGS, **OTHERS}[kind], **changes})
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed_positions" not in name:
                weight.normal_(0.0, 0.3)
    return model


@lru_cache
def model_of(kind: str) -> Any:
    return make_model(kind)


PAIRS = (
    ("der hund schläft", "the dog sleeps"),
    ("die katze schläft", "the cat sleeps"),
    ("der hund isst", "the dog eats"),
    ("die katze isst", "the cat eats"),
    ("das kind schläft", "the child sleeps"),
    ("das kind isst", "the child eats"),
)


def reading_tokenizer(
    texts: list[str], family: str = "sentencepiece_bpe"
) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer that closes every text with its end token, as those of encoders do."""
    raw: tokenizers.Tokenizer = toy_tokenizer(texts, family=family)
    end = raw.token_to_id(END)
    raw.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, end)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, pad_token=END)


def trained_folder(folder: Path, *, steps: int = 110, **settings: Any) -> Path:
    """A T5 that has learned ``PAIRS`` by heart, in a folder with its tokenizer."""
    texts = [f" {text}" for pair in PAIRS for text in pair]
    tokenizer = reading_tokenizer(texts)
    end = tokenizer.eos_token_id
    config = transformers.T5Config(
        **{
            **T5_LIKE,
            "vocab_size": len(tokenizer),
            "pad_token_id": end,
            "eos_token_id": end,
            "decoder_start_token_id": 0,
            "dropout_rate": 0.0,
        }
    )
    torch.manual_seed(1)
    model = transformers.T5ForConditionalGeneration(config).train()
    read = tokenizer([source for source, _ in PAIRS], return_tensors="pt", padding=True)
    # Responses follow a prompt, so their first word has the space before it.
    wanted = tokenizer([target for _, target in PAIRS], return_tensors="pt", padding=True)
    labels = wanted.input_ids.masked_fill(wanted.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model(**read, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
