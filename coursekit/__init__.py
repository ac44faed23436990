"""The tested package behind an open course on generative models.

The lessons in `notebooks/` own the ideas and this package owns the code. Data x is moved along one noise
axis everywhere: x_t = alpha_t x + sigma_t eps, with t = 0 the data and t = 1 the noise
(`coursekit.diffusion.schedules`).
"""

import random

import numpy as np
import torch
from threadpoolctl import threadpool_limits

__all__ = ["__version__", "seed_everything"]
__version__ = "0.1.0"


def seed_everything(seed: int, threads: int | None = None) -> torch.Generator:
    """Seed Python, NumPy and torch alike, and return a CPU generator with the same seed.

    Args:
        seed: the seed, in [0, 2**32).
        threads: how many threads torch, NumPy, SciPy and scikit-learn may use; 1 where two machines must agree to the
            last bit, `None` to leave the number alone.

    Returns:
        A fresh `torch.Generator` on the CPU, for every function that takes `generator=`.

    Raises:
        TypeError: if the seed is no integer.
        ValueError: if the seed is out of range or `threads` is not positive.

    Example:
        >>> first = torch.randn(3, generator=seed_everything(0))
        >>> torch.equal(first, torch.randn(3, generator=seed_everything(0)))
        True
    """
    if not isinstance(seed, int):
        raise TypeError(f"seed must be an int, got {type(seed).__name__}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in [0, 2**32), got {seed}")
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
        threadpool_limits(threads)  # NumPy, SciPy and scikit-learn, whose idle threads would spin for the same cores
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - scikit-learn still draws from the global state
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
