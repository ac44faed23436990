"""An accelerator that computes nothing, for machines that have none: device "fakegpu", under FakeTensorMode only.

A step that mixes its tensors with the CPU's, or asks for a value, raises. It does not see `.cpu()`, a CPU table
indexed by its tensors, or a CPU generator: evidence, not proof. Built on torch's private Python backend.
"""

import torch
from torch.utils import backend_registration

NAME = "fakegpu"


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def register() -> str:
    """Make the device known to torch, once; returns its name."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    return NAME
