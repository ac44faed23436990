"""Distillation: students that draw in 4, 2 or 1 calls what their teacher draws in many.

ProgressiveDistillation   one step of the student for two of its teacher, again and again, into a `FewSteps`
ConsistencyDistillation   the end of the teacher's path at once, from any point of it, into a `ConsistencyModel`
"""

from coursekit.diffusion.distillation.consistency import ConsistencyDistillation, ConsistencyModel
from coursekit.diffusion.distillation.progressive import FewSteps, ProgressiveDistillation

__all__ = ["ConsistencyDistillation", "ConsistencyModel", "FewSteps", "ProgressiveDistillation"]
