"""Model Swarms: particle swarm search between experts of one architecture (arXiv 2410.11163).

    from coolfusion.swarm import Experts, FunctionMeasure, Utility, swarm
    swarm(Experts(("A", "B")), Utility((FunctionMeasure("package.module:function"),)), "output")

``coolfusion swarm`` is the same from the command line.
"""

from __future__ import annotations

from coolfusion.swarm.experts import Experts
from coolfusion.swarm.log import Evaluation
from coolfusion.swarm.measures import (
    Answering,
    FunctionMeasure,
    HarnessMeasure,
    Measure,
    TaskMeasure,
)
from coolfusion.swarm.particle import BrokenParticleError, Loading, Particle
from coolfusion.swarm.plan import SwarmPlan
from coolfusion.swarm.result import Iteration, Result, SwarmProgress, SwarmTrial
from coolfusion.swarm.run import swarm
from coolfusion.swarm.utility import Utility, harmonic_mean

__all__ = [
    "Answering",
    "BrokenParticleError",
    "Evaluation",
    "Experts",
    "FunctionMeasure",
    "HarnessMeasure",
    "Iteration",
    "Loading",
    "Measure",
    "Particle",
    "Result",
    "SwarmPlan",
    "SwarmProgress",
    "SwarmTrial",
    "TaskMeasure",
    "Utility",
    "harmonic_mean",
    "swarm",
]
