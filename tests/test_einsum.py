"""einsum: numbers by NumPy's, gradients by PyTorch's."""
import numpy as np
import pytest
from cases import Function, assert_all_close, assert_close

import cnn
from cnn import functional as F

RNG = np.random.default_rng(0)
N = 3
SIZES = {"n": N, "h": 2, "i": 4, "j": 5, "d": 6, "c": 3, "o": 7, "w": 2}
EQUATIONS = [
    "nhid,nhjd->nhij", "nhij,nhjd->nhid", "nij,njd->nid", "ncij,oc->noij", "nid,od->nio", "nci,ncj->nij", "nc,nc->n",
    "nij->nji", "ncij->nc", "nhijd->nid", "nid,njd->nijd", "nhid,hdo->nhio", "ncw,w->nc", "ni,j->nij", "nic,cjo->nijo",
    "ncij,nij->nc", "nhid,nhjd,njo->nhio", "nij,jd,do->nio", "nhi,nhj->nhij", "nci,ncd,ncj->nidj",
    "n i d, n j d -> n j i", "nij,nij->nij", "nchi,ncj->ni",
]


class Net(cnn.Module):
    """An einsum of inputs and of Parameters, which have no axis of images."""

    def __init__(self, equation, own):
        super().__init__()
        self.equation, self.own = equation, cnn.ParameterList(own)

    def forward(self, *xs):
        values, own = iter(xs), iter(self.own)
        return F.einsum(self.equation, *(next(values if "n" in part else own, None)
                                         for part in self.equation.replace(" ", "").split("->")[0].split(",")))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_numbers_and_gradients(equation, torch):
    parts = equation.replace(" ", "").split("->")[0].split(",")
    arrays = [RNG.standard_normal([SIZES[label] for label in part]) for part in parts]
    xs = [x for x, part in zip(arrays, parts, strict=True) if "n" in part]
    flat = [x.reshape(N, -1, x.shape[-1]) if x.ndim > 4 else x for x in xs]     # of five axes
    if flat[0].ndim != xs[0].ndim:
        class Five(Net):
            def forward(self, x):
                return F.einsum(self.equation, x.view(-1, *xs[0].shape[1:]))
        model = Five(equation, [])
    else:
        model = Net(equation, [x for x, part in zip(arrays, parts, strict=True) if "n" not in part])
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    z, y = torch.einsum(equation, *tensors), model(*flat)
    assert_close(y, z.detach().numpy(), 1e-12)
    assert_close(y, np.einsum(equation.replace(" ", ""), *arrays), 1e-12)
    assert_close(F.einsum(equation, *arrays), y, 1e-12)
    dy = RNG.standard_normal(y.shape)
    z.backward(torch.tensor(dy))
    dxs = model.backward(dy)
    wanted = [t.grad.numpy() for t, part in zip(tensors, parts, strict=True) if "n" in part]
    assert_all_close(dxs if isinstance(dxs, tuple) else [dxs], [
        w.reshape(x.shape) for w, x in zip(wanted, flat, strict=True)], 1e-11)
    own = [t.grad.numpy() for t, part in zip(tensors, parts, strict=True) if "n" not in part]
    assert_all_close([p.grad for p in model.own], own, 1e-11)


@pytest.mark.parametrize("equation, error", [
    (3, TypeError), ("nij,njk", ValueError), ("nij", ValueError), ("nii,njk->nik", ValueError), ("nij,->n", ValueError),
    ("nij,njk->nix", ValueError), ("n.j,njk->nk", ValueError), ("nij,njk->ik", ValueError),
    ("ijn,njk->nik", ValueError), ("ni,njk->nik", ValueError), ("nij,nik->nj", ValueError)])
def test_what_is_no_equation(equation, error):
    x = np.ones((2, 3, 4))
    with pytest.raises(error, match="einsum"):
        Net(equation, [])(x, np.ones((2, 4, 5))) if isinstance(equation, str) else F.einsum(equation, x)
    with pytest.raises(TypeError, match="einsum: one of the operands must be a value"):
        F.einsum("ni,ni->n", [1], [2])


def test_images_have_one_letter():
    with pytest.raises(ValueError, match="einsum: the images' letter, 'n', must be the first of a value, got 'mj'"):
        Function(lambda x: F.einsum("nj,mj->nm", x, x))(np.ones((2, 3)))
