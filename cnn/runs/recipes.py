"""Recipes: settings that reach a named accuracy."""
from dataclasses import dataclass, replace

from cnn.runs.settings import DEFAULTS, Settings


@dataclass(frozen=True)
class Recipe:
    """Settings that reach a named accuracy; only the seed is left open.

    target: the test accuracy that a run should reach. cost: what it takes, in words.
    """

    settings: Settings
    target: float
    cost: str


# David Page's and Keller Jordan's way to train on CIFAR-10 (see models.cifar_net for the paper)
_CIFAR_NET = Settings(dataset="cifar10", model="cifar_net", batch_size=512, lr=0.75, momentum=0.85,
                      weight_decay=1.33e-3, bias_lr=64.0, schedule="triangle", lookahead=True, label_smoothing=0.2,
                      shift=2, shift_mode="reflect", flip="alternating", tta="flip+shift")
_DIGITS = replace(_CIFAR_NET, dataset="mnist", channels="32,64,64", batch_size=256, lr=0.375, label_smoothing=0.1,
                  shift=0, flip="none", rotate=10.0, translate=0.08, scale=0.1, shear=5.0, tta="none")
_CLOTHES = replace(_CIFAR_NET, dataset="fashion-mnist", channels="32,96,128", batch_size=256, lr=0.375,
                   label_smoothing=0.1, flip="random")
_QUICK = replace(DEFAULTS["cifar10"], model="cifar_quick", shift=2, shift_mode="reflect", flip="alternating",
                 tta="flip+shift")

RECIPES = {
    "mnist-99": Recipe(replace(DEFAULTS["mnist"], epochs=3), 0.99, "3 epochs, under 3 s on 2 cores; 99.2%"),
    "mnist-best": Recipe(replace(_DIGITS, epochs=8), 0.996, "8 epochs, some 2 minutes on 2 cores; 99.7%"),
    "fashion-mnist": Recipe(replace(_CLOTHES, epochs=10), 0.93, "10 epochs, some 4 minutes on 2 cores; 94.2%"),
    "cifar10-quick": Recipe(replace(_QUICK, epochs=25), 0.78, "25 epochs, under 4 minutes on 2 cores; 86.4%"),
    "cifar10-90": Recipe(replace(_CIFAR_NET, epochs=4), 0.90, "4 epochs, some 5 minutes on 2 cores; 91.7%"),
    "cifar10-94": Recipe(replace(_CIFAR_NET, epochs=10), 0.935, "10 epochs, some 13 minutes on 2 cores; 94.2%"),
}
