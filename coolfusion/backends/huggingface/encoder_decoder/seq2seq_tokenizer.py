"""The tokenizer of an encoder-decoder source: prompts for the encoder, responses for the decoder."""

from __future__ import annotations

from typing import final

from coolfusion.backends.huggingface.encoder_decoder.seq2seq import Sides
from coolfusion.errors import PromptError
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
from coolfusion.tokenization.prompts import OwnPrompt


@final
class EncoderDecoderTokenizer:
    """``tokenizer`` for both sides of a model; ``start`` are the decoder's ids before a response.

    A raw prompt is the encoder's input. The tokenizer's own rule adds special tokens before and
    after it. The encoder's input is never decoded, so the tokenizer must reproduce only responses.
    """

    def __init__(
        self, tokenizer: HuggingFaceTokenizer, sides: Sides, start: tuple[int, ...]
    ) -> None:
        self._tokenizer = tokenizer
        self._sides = sides
        self._start = start

    @property
    def end_ids(self) -> frozenset[int]:
        """Every id that ends a response."""
        return self._tokenizer.end_ids

    @property
    def losses(self) -> tuple[str, ...]:
        """What the tokenizer cannot reproduce of a text."""
        return self._tokenizer.losses

    @property
    def rare_losses(self) -> tuple[str, ...]:
        """Those of the losses that hardly any text holds."""
        return self._tokenizer.rare_losses

    @property
    def has_chat_template(self) -> bool:
        """Whether chat messages can be given to this tokenizer."""
        return self._tokenizer.has_chat_template

    def encode(self, text: str) -> tuple[int, ...]:
        """The decoder's ids of a part of a response."""
        return self._tokenizer.encode(text)

    @property
    def whole_words(self) -> tuple[str, ...]:
        """Added tokens that count only where they stand alone as words."""
        return self._tokenizer.whole_words

    @property
    def knows_whole_parts(self) -> bool:
        """Whether a part of a text may be encoded otherwise than as the beginning of a longer one."""
        return self._tokenizer.knows_whole_parts

    def parts(self, text: str) -> tuple[tuple[int, int], ...]:
        """The (first, end) of each part of the normalised ``text`` that is encoded by itself."""
        return self._tokenizer.parts(text)

    def piece(self, token_id: int) -> bytes | None:
        """The bytes a decoder's token adds to a text; None for all others."""
        return self._tokenizer.piece(token_id) if token_id < self._sides.num_decoder_ids else None

    def encode_prompt(self, prompt: OwnPrompt) -> tuple[int, ...]:
        """The prefix of a response to a text, or to chat messages if there is a template.

        Raises ``PromptError`` for messages without a template, and for a prompt too long for the
        encoder.
        """
        if isinstance(prompt, str):
            read = self._tokenizer.encode_closed(prompt)
        elif self.has_chat_template:
            read = self._tokenizer.encode_prompt(prompt)
        else:
            raise PromptError(
                "Chat messages were given to an encoder-decoder model, which has no chat template "
                "and would read them as the text to work on. Give this source a prompt of its own, "
                "the bare text: {NAME: TEXT, ...} in place of the prompt (on the command line: "
                "--prompt-for NAME=TEXT)."
            )
        limit = self._sides.encoder_length
        if limit is not None and len(read) > limit:
            raise PromptError(
                f"The prompt has {len(read)} tokens for an encoder that takes {limit}. Shorten it."
            )
        return self._sides.join(read, self._start)
