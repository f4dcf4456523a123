"""Hugging Face tokenizers behind the seam: exact, in context, and checked for losses at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, final

import regex
import tokenizers
from tokenizers import models

from coolfusion.checks.annotations import check_for
from coolfusion.checks.values import fitting
from coolfusion.errors import LossyTokenizerError, PromptError
from coolfusion.tokenization.base import Settled, pieces_text
from coolfusion.tokenization.chat import ChatEncoder
from coolfusion.tokenization.fidelity.copies import faithful_copy, without_names
from coolfusion.tokenization.fidelity.literals import (
    Literals,
    examples_of,
    literals_of,
    names_of_words,
    pattern_of,
)
from coolfusion.tokenization.fidelity.losses import find_losses, suspicious
from coolfusion.tokenization.prompts import Message, OwnPrompt, check_characters
from coolfusion.tokenization.settling.classes import CharacterClasses
from coolfusion.tokenization.settling.positions import Settling
from coolfusion.tokenization.settling.sections import Sections
from coolfusion.tokenization.token_bytes import TokenBytes, token_bytes
from coolfusion.tokenization.typed_text import ChatTemplate

# A tokenizer may treat the beginning of a text differently (Llama 2 adds a word mark). So a text
# is encoded after an anchor, whose ids are then removed. The first anchor that keeps its own ids
# is used. The empty one suffices for tokenizers that add nothing.
_ANCHORS = ("", "\x01", "\n", ".", "a", "0")
_BYTE_NAME = regex.compile(r"<0x[0-9A-Fa-f]{2}>")
_IN_CONTEXT = ("a", " a", "1", "\n", "(", "the", " The")


@final
class HuggingFaceTokenizer:
    """A ``tokenizers.Tokenizer`` behind the seam of ``coolfusion.tokenization.base``.

    ``end_ids`` are all ids that end a response. ``template`` renders chat messages to text (None:
    raw prompts only). ``losses`` names what it cannot reproduce of a text. Raises
    ``LossyTokenizerError`` unless that is all rare (``rare_losses``: code points that hardly any
    text holds) or ``lossy_ok``. The given tokenizer is never altered. Its model is shared, so it
    must not be trained again.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        end_ids: Iterable[int] = (),
        template: ChatTemplate | None = None,
        lossy_ok: bool = False,
    ) -> None:
        self._plain = faithful_copy(tokenizer)
        self._chat = ChatEncoder(tokenizer, template) if template else None
        vocabulary = self._plain.get_vocab(with_added_tokens=True)
        self.token_bytes = token_bytes(self._plain, vocabulary)
        self.end_ids = frozenset(fitting("end_ids", end_ids, check_for(Iterable[int])))
        taken = _taken_names(self._plain.model, self.token_bytes, vocabulary)
        self._taken = _any_of(taken)
        self.knows_whole_parts = any(
            getattr(self._plain.model, name, None)
            for name in ("ignore_merges", "end_of_word_suffix")
        )
        self.whole_words = names_of_words(self._plain)
        self._whole_words = pattern_of(self.whole_words, self.whole_words)
        self._anchors = self._choose_anchors()
        self._apart = Literals({})
        self._apart = literals_of(self._plain, self.token_bytes, self._trip)
        if self._apart.names:
            self._plain = without_names(self._plain)
        self.encode = lru_cache(maxsize=4096)(self._encode)
        self._sections = Sections(
            (self._apart.next_in, self._next_taken),
            (*self._apart.names, *taken),
            [name for name in self.whole_words if name in self._apart.names],
        )
        self._settling = Settling(self._plain, in_context=bool(self._anchors))
        suspects = suspicious(self._plain, self.token_bytes, vocabulary)
        added = examples_of(self._plain.get_added_tokens_decoder().values())
        losses = find_losses(self._trip, added, suspects)
        self.losses = tuple(map(str, losses))
        self.rare_losses = tuple(str(loss) for loss in losses if not loss.ordinary)
        ordinary = [str(loss) for loss in losses if loss.ordinary]
        if ordinary and not lossy_ok:
            raise LossyTokenizerError(
                f"This tokenizer loses {'; '.join(ordinary)}. Fused text would be altered by "
                "it. Leave this source out, or pass lossy_ok=True to use it all the same."
            )

    @property
    def ids(self) -> frozenset[int]:
        """Every id that stands for a token, control tokens included."""
        return frozenset(self.token_bytes.ids.tolist())

    @property
    def unfollowed(self) -> str | None:
        """What keeps ``settled`` from knowing anything; None if nothing does.

        A response is then encoded as a whole at every step.
        """
        return self._settling.unfollowed

    def settled(self, lead: str, text: str) -> Iterator[Settled]:
        """Positions in ``text`` from which its encoding goes on alone, whatever follows.

        See ``coolfusion.tokenization.base.SettlingTokenizer``.
        """
        whole = lead + text
        start, end = self._sections.last(whole)
        moved = max(0, start - len(lead))
        known, section = lead[start:], whole[max(start, len(lead)) : end]
        for each in self._settling.positions(known, section):
            found = replace(each, position=each.position + moved)
            is_free = self._sections.is_free(whole, len(lead) + found.position)
            if is_free and self._holds(each, known, section, is_closed=end < len(whole)):
                yield found
        if moved and self._sections.is_free(whole, start):
            yield Settled(moved)

    def _holds(self, each: Settled, lead: str, section: str, *, is_closed: bool) -> bool:
        """Whether a position also holds where names are taken apart, before it or after it."""
        if not self._sections.joins_nothing(each.lead):
            return False
        if not is_closed:
            return True
        rest = self._encode_part(each.lead + section[each.position :])[each.num_skipped :]
        known = self._encode_part(lead + section)
        return known[max(0, len(known) - len(rest)) :] == rest

    @property
    def has_chat_template(self) -> bool:
        """Whether chat messages can be given to this tokenizer."""
        return self._chat is not None

    def piece(self, token_id: int) -> bytes | None:
        """The bytes a token adds to a text; None for a control token or an unused id."""
        return self.token_bytes.piece(token_id)

    def parts(self, text: str) -> tuple[tuple[int, int], ...]:
        """The (first, end) of each part of the normalised ``text`` that is encoded by itself.

        Added tokens that must stand alone as words come first.
        """
        splitter, normalizer = self._plain.pre_tokenizer, self._plain.normalizer
        words = tuple(found.span() for found in self._whole_words.finditer(text))
        text = normalizer.normalize_str(text) if normalizer is not None else text
        if splitter is None:
            return (*words, (0, len(text)))
        return (*words, *(span for _, span in splitter.pre_tokenize_str(text)))

    def classes_after(self, ends: Sequence[str]) -> Callable[[str], Hashable]:
        """Classes of characters: two of one class are cut alike by ``parts`` after any of ``ends``."""
        classes = CharacterClasses(self._plain, ends)
        # Whether a word stands alone depends on the characters beside it.
        return str if self.whole_words else classes.of

    def encode_prompt(self, prompt: OwnPrompt) -> tuple[int, ...]:
        """Ids of a raw prompt, or of chat messages through the chat template.

        A raw prompt gets the special tokens of the tokenizer's own rule, messages those of the
        template. Names of special tokens inside a prompt stay text. Raises ``PromptError`` for
        an empty prompt, for messages without a template or not well formed, and for lone
        surrogates.
        """
        if not isinstance(prompt, str):
            return self._encode_chat(prompt)
        opened, _ = self._encode_raw(prompt)
        return opened

    def encode_closed(self, text: str) -> tuple[int, ...]:
        """Ids of a raw text for an encoder, with special tokens before and after it."""
        opened, closing = self._encode_raw(text)
        return opened + closing

    def _encode(self, text: str) -> tuple[int, ...]:
        """Ids of ``text`` in context. Names of control and byte tokens in it stay text."""
        ids: tuple[int, ...] = ()
        for part, literal in self._apart.parts(text):
            ids += self._encode_around_names(part) + literal
        return ids

    def _encode_around_names(self, text: str) -> tuple[int, ...]:
        taken = self._next_taken(text, 0)
        if taken:
            _, cut = taken
            return self._encode_part(text[:cut]) + self._encode_around_names(text[cut:])
        return self._encode_part(text)

    def _next_taken(self, text: str, start: int) -> tuple[int, int] | None:
        """The next name that is cut after its first character, and where it is cut."""
        found = self._taken.search(text, start) if self._taken else None
        return (found.start(), found.start() + 1) if found else None

    def _encode_part(self, text: str) -> tuple[int, ...]:
        for anchor, anchor_ids in self._anchors:
            ids = self._ids(anchor + text)
            if ids[: len(anchor_ids)] == anchor_ids:
                return ids[len(anchor_ids) :]
        return self._ids(text)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._plain.encode(text, add_special_tokens=False).ids)

    def _encode_raw(self, prompt: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of a raw text with the special tokens before it, and the end tokens after it.

        The end tokens are apart, since a prompt with them would end before the response.
        """
        check_characters(prompt)
        if not prompt:
            raise PromptError(
                "The prompt is empty, so there is nothing to continue. Give some text."
            )
        apart = self._apart.next_in(prompt, 0)
        head = prompt[: apart[0]] if apart else prompt
        taken = self._next_taken(head, 0)
        head = head[: taken[1]] if taken else head
        encoding = self._plain.encode(head, add_special_tokens=True)
        ids = list(encoding.ids)
        mask = encoding.special_tokens_mask
        num_open = len(ids)
        while num_open and mask[num_open - 1] and ids[num_open - 1] in self.end_ids:
            num_open -= 1
        rest = self._encode(prompt[len(head) :])
        if not rest and all(mask):
            raise PromptError(
                f"Nothing of the prompt {prompt[:40]!r} is left in this tokenizer's ids, so there is "
                f"nothing to continue. It loses {'; '.join(self.losses)}. Give other text, or leave "
                "this source out."
            )
        return tuple(ids[:num_open]) + rest, tuple(ids[num_open:])

    def _encode_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        if self._chat is None:
            raise PromptError(
                "Chat messages were given, but this tokenizer has no chat template to write them "
                "with. Give a raw prompt (on the command line: --raw), give this source a text of its own "
                "(a mapping from sources to prompts), or use an instruction-tuned model."
            )
        return self._chat.encode(messages, self.end_ids)

    def _choose_anchors(self) -> list[tuple[str, tuple[int, ...]]]:
        """Anchors after which a text is encoded as in the middle of a text, best first."""
        chosen = []
        for anchor in _ANCHORS:
            anchor_ids = self._ids(anchor)
            faithful = True
            for probe in _IN_CONTEXT:
                ids = self._ids(anchor + probe)
                rest = ids[len(anchor_ids) :]
                faithful &= (
                    ids[: len(anchor_ids)] == anchor_ids and pieces_text(self, rest) == probe
                )
            if faithful:
                chosen.append((anchor, anchor_ids))
        return chosen

    def _trip(self, text: str) -> str:
        return pieces_text(self, self._encode(text))


def _taken_names(model: Any, pieces: TokenBytes, vocabulary: Mapping[str, int]) -> list[str]:
    """Names of control and byte tokens, if the model matches names literally.

    In a Unigram model the text "<0x41>" would become the byte token of "A". A BPE model that
    ignores merges matches whole words in this way.
    """
    is_unigram = isinstance(model, models.Unigram)
    if not is_unigram and not getattr(model, "ignore_merges", False):
        return []
    # Added tokens that are not in the vocabulary of a BPE model are never matched by it.
    return sorted(
        name
        for name, token_id in vocabulary.items()
        if (pieces.piece(token_id) is None or (name[:3] == "<0x" and _BYTE_NAME.fullmatch(name)))
        and (is_unigram or model.token_to_id(name) is not None)
    )


def _any_of(names: Sequence[str]) -> regex.Pattern[str] | None:
    return regex.compile("|".join(map(regex.escape, names))) if names else None
