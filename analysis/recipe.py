"""The settings of training: Appendix E.3's, each with a name."""

from dataclasses import dataclass

from analysis.files import InputError


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are the paper's (E.3)."""

    optimiser: str = "adamw"  # or muon: of the bottleneck's and selectors' matrices
    learning_rate: float = 1e-3
    readout_rate: float = 1.0  # times the learning rate: that of the read-out's weights and biases
    schedule: str = "constant"  # of the rate; or one-cycle: it rises, then falls to 0 on a cosine
    warm_up: float = 0.2  # share of the steps in which a one-cycle rate rises
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    batch: int = 8  # trials
    steps_per_epoch: int = 1000
    max_steps: int = 100_000  # the paper's models were best at 40,000 to 60,000
    patience: int = 20  # epochs without a better validation score; a one-cycle rate ends its cycle
    loss_beta: float = 0.1  # where smooth L1 turns from square to absolute (BOLD z-score)
    regularisation: float = 0.1  # λ of Eq. 3
    decay_steps: int = 6000  # until Eq. 3's term is gone
    scale_penalty: float = (
        0.0  # weight of (k - 1/2)², in the released code and not in E.3; also of sizes
    )
    scale_decay_steps: int = 6000  # until that is gone
    precision: str = "float32"  # or bfloat16: of the products of selectors and bottleneck
    checkpoints: int = 10  # best ones kept for the soup
    soup: str = "validation"  # pictures that choose it; or test: the paper's, and said so
    seed: int = 0

    def __post_init__(self):
        counts = "batch steps_per_epoch max_steps decay_steps scale_decay_steps checkpoints"
        for field in f"{counts} patience".split():
            if (value := getattr(self, field)) < 1:
                raise InputError(f"recipe: {field}={value}; expected at least 1.")
        for field in ("learning_rate", "readout_rate"):
            if not (value := getattr(self, field)) > 0:
                raise InputError(f"recipe: {field}={value}; expected more than 0.")
        if self.max_steps % self.steps_per_epoch:
            raise InputError(
                f"recipe: max_steps={self.max_steps} is not a whole number of epochs of"
                f" {self.steps_per_epoch} steps."
            )
        if not 0 < self.warm_up < 1:
            raise InputError(f"recipe: warm_up={self.warm_up}; expected a share between 0 and 1.")
        choices = {
            "optimiser": ("adamw", "muon"),
            "schedule": ("constant", "one-cycle"),
            "soup": ("validation", "test"),
            "precision": ("float32", "bfloat16"),
        }
        for field, known in choices.items():
            if (value := getattr(self, field)) not in known:
                raise InputError(f"recipe: {field}={value!r}; expected {' or '.join(known)}.")
