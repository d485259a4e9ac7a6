import torch

from pcam_lightning.models import CNN
from pcam_lightning.models.tta import D4TTA, orientations


def test_the_orientations_are_the_eight_flips_and_turns():
    image = torch.arange(2 * 3 * 3 * 3).view(2, 3, 3, 3)
    views = orientations(image)
    turned = [torch.rot90(image, turns, (1, 2)) for turns in range(4)]
    expected = [*turned, *(each.flip(1) for each in turned)]
    assert views[0] is image
    assert len(views) == 8
    for each in expected:
        assert sum(each.equal(view) for view in views) == 1


def test_the_logit_is_the_mean_and_does_not_depend_on_the_orientation():
    torch.manual_seed(0)
    model = CNN(channels=[4, 4]).eval()
    image = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        logit = D4TTA(model)(image)
        each = torch.stack([model(view.contiguous()) for view in orientations(image)])
        turned = D4TTA(model)(torch.rot90(image, 1, (1, 2)))
    assert logit.shape == (3,)
    torch.testing.assert_close(logit, each.mean(0))
    torch.testing.assert_close(logit, turned)
    assert each.std(0).min() > 1e-4  # the logits to average differ
