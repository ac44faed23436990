import pytest
import torch

from coursekit.labels import check_labels, check_num_classes


@pytest.mark.parametrize(
    ("y", "num_classes", "error", "message"),
    [
        (torch.tensor([0, 1, 3]), 3, ValueError, r"y must lie in 0\.\.2, got 0\.\.3"),
        (torch.tensor([0, -1, 2]), 3, ValueError, r"y must lie in 0\.\.2, got -1\.\.2"),
        (torch.tensor([0, 1]), 3, ValueError, r"y must hold n = 3 labels, got shape \(2,\)"),
        (torch.tensor([[0], [1], [2]]), 3, ValueError, r"got shape \(3, 1\)"),
        (None, 3, ValueError, "y must hold n = 3 labels, got None"),
        (torch.zeros(3), 3, TypeError, "y must hold whole numbers, got torch.float32"),
        (torch.zeros(3, dtype=torch.bool), 3, TypeError, "y must hold whole numbers, got torch.bool"),
        (torch.zeros(3, dtype=torch.complex64), 3, TypeError, "y must hold whole numbers, got torch.complex64"),
        (torch.tensor([0, 1, 2]), None, ValueError, "y must be None for a model without labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(y, num_classes, error, message):
    with pytest.raises(error, match=message):
        check_labels(y, 3, num_classes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_that_fit_are_welcome(dtype):
    check_labels(torch.tensor([0, 2, 1], dtype=dtype), 3, 3)
    check_labels(torch.empty(0, dtype=dtype), 0, 3)
    check_labels(None, 3, None)


def test_a_model_has_at_least_one_class_or_none_at_all():
    check_num_classes(1)
    check_num_classes(None)
    with pytest.raises(ValueError, match="num_classes must be at least 1 or None, got 0"):
        check_num_classes(0)
