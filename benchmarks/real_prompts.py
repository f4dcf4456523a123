"""The prompts of ``benchmarks.real_speed``: ten kinds of text, and ten more of the same kinds.

The second ten are for checking that nothing was fitted to the first.
"""

from __future__ import annotations

KINDS = (
    "question",
    "story",
    "code",
    "reasoning",
    "essay",
    "translation",
    "Japanese",
    "Chinese",
    "letter",
    "list",
)

MAIN = (
    "Q: What is the capital of France?\nA:",
    "The old lighthouse keeper climbed the stairs one last time, and",
    'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n',
    "A train travels 60 miles in 2 hours. How fast does it go? Let us think step by step.",
    "The three most important inventions of the nineteenth century were",
    "Translate to German: Good morning, how are you today?\nGerman:",
    "日本の首都は東京です。東京は",
    "人工智能是计算机科学的一个分支,它",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "Ingredients:\n- 2 cups of flour\n- 1 cup of sugar\n",
)

HELD_OUT = (
    "Q: Who wrote the play Hamlet?\nA:",
    "When the snow began to melt, the two brothers packed the sled and",
    'def is_prime(n):\n    """Return True if n is a prime number."""\n',
    "A shop sells pens at 3 dollars each. Tom buys 4 pens and pays with 20 dollars. His change is",
    "The main reason why cities grow faster than villages is",
    "Translate to Spanish: Where is the train station?\nSpanish:",
    "昔々、あるところにおじいさんと",
    "春天来了,公园里的花",
    "Dear Anna,\n\nThank you very much for",
    "Things to pack for the trip:\n- a tent\n- two sleeping bags\n",
)

SETS = {"main": MAIN, "held_out": HELD_OUT}
