"""How the sources decide together that a response is over.

The question is put to all of them as soon as one drafts an end. With ``e[k]`` the
probability source ``k`` gives to ending here and weights ``w[k]`` that sum to 1:

    joint_odds    sum_k w[k] log e[k]  >  sum_k w[k] log(1 - e[k])
    majority_mass sum_k w[k] e[k]  >  1/2
    token_contest sum_k w[k] log e[k]  >  max_c sum_k w[k] log f[c, k]

where ``f[c, k]`` is the probability of the first token of continuing candidate ``c``. The first
two decide by the logarithmic and the linear opinion pool (Genest and Zidek 1986); the third is
our own. Under the paper's rule, ``compete``, there is no question: an end competes as one more
token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from coolfusion.types import Floats


@dataclass(frozen=True, slots=True)
class EndQuestion:
    """``log_end`` and ``weights``: (sources,); ``log_first``: (candidates, sources). Nats."""

    log_end: Floats
    log_first: Floats
    weights: Floats


EndRule = Callable[[EndQuestion], bool]


def joint_odds(question: EndQuestion) -> bool:
    """The product of the experts' odds favours the end."""
    certain = np.minimum(question.log_end, -1e-12)
    log_go_on = np.log(-np.expm1(certain))
    return bool(question.weights @ question.log_end > question.weights @ log_go_on)


def majority_mass(question: EndQuestion) -> bool:
    """The mixture of the sources puts more than half of its mass on the end."""
    return bool(question.weights @ np.exp(question.log_end) > 0.5)


def token_contest(question: EndQuestion) -> bool:
    """The end is likelier, in the geometric mean, than every drafted first token."""
    return bool(question.weights @ question.log_end > (question.log_first @ question.weights).max())


# None is the rule of the paper: ends compete as candidates, and no question is asked.
END_RULES: Mapping[str, EndRule | None] = {
    "joint_odds": joint_odds,
    "majority_mass": majority_mass,
    "token_contest": token_contest,
    "compete": None,
}
