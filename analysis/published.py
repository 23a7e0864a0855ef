"""Numbers that others printed, to stand beside measured ones.

Tables are of Yang, Gee and Shi 2024, by its numbers; what is read off its figures is in
`digitised`; the rest is known of NSD.
"""

from dataclasses import asdict, dataclass

import pandas as pd

# Table 13: R² of single trials, mean over vertices. CLIP L on three of NSD's subjects; networks of
# base size, and Stable Diffusion at one time step each, all blocks, on subject #1.
COLUMNS = ("all", "V1", "V2", "V3", "V4", "EBA", "FBA", "OFA", "FFA", "OPA", "PPA", "OWFA", "VWFA")
SUBJECTS = ("CLIP (subject #1)", "CLIP (subject #2)", "CLIP (subject #3)")
VITS = ("CLIP", "SAM", "ImageNet", "DiNOv2", "MAE", "MoCov3")
STEPS = tuple(f"SD T{t}" for t in range(0, 51, 5))
R2_ERROR = 0.001  # ± of every R² in Tables 13, 15 and 16, by their headings
TABLE_13 = pd.DataFrame(
    [
        (0.132, 0.216, 0.209, 0.185, 0.139, 0.176, 0.157, 0.129, 0.182, 0.091, 0.130, 0.121, 0.092),
        (0.154, 0.247, 0.183, 0.192, 0.188, 0.182, 0.134, 0.098, 0.136, 0.126, 0.199, 0.083, 0.140),
        (0.104, 0.155, 0.128, 0.108, 0.105, 0.134, 0.137, 0.080, 0.151, 0.081, 0.125, 0.104, 0.087),
        (0.132, 0.216, 0.209, 0.185, 0.139, 0.176, 0.157, 0.129, 0.182, 0.091, 0.130, 0.121, 0.092),
        (0.110, 0.212, 0.197, 0.172, 0.113, 0.127, 0.120, 0.104, 0.142, 0.074, 0.104, 0.105, 0.066),
        (0.120, 0.205, 0.202, 0.174, 0.127, 0.159, 0.143, 0.117, 0.169, 0.076, 0.121, 0.109, 0.077),
        (0.126, 0.208, 0.202, 0.175, 0.127, 0.174, 0.152, 0.122, 0.178, 0.083, 0.126, 0.111, 0.088),
        (0.129, 0.219, 0.210, 0.186, 0.135, 0.165, 0.148, 0.127, 0.173, 0.093, 0.126, 0.124, 0.086),
        (0.126, 0.214, 0.208, 0.181, 0.134, 0.163, 0.150, 0.120, 0.176, 0.086, 0.124, 0.115, 0.081),
        (0.048, 0.135, 0.112, 0.088, 0.057, 0.036, 0.033, 0.046, 0.036, 0.024, 0.041, 0.049, 0.025),
        (0.062, 0.151, 0.130, 0.103, 0.070, 0.053, 0.050, 0.055, 0.056, 0.039, 0.055, 0.058, 0.033),
        (0.077, 0.161, 0.146, 0.119, 0.078, 0.085, 0.079, 0.068, 0.091, 0.050, 0.071, 0.068, 0.044),
        (0.095, 0.187, 0.169, 0.141, 0.097, 0.111, 0.105, 0.085, 0.123, 0.063, 0.090, 0.083, 0.055),
        (0.106, 0.195, 0.184, 0.155, 0.110, 0.135, 0.120, 0.100, 0.142, 0.071, 0.104, 0.096, 0.063),
        (0.112, 0.199, 0.191, 0.161, 0.109, 0.149, 0.127, 0.109, 0.151, 0.076, 0.112, 0.103, 0.068),
        (0.121, 0.207, 0.202, 0.177, 0.129, 0.163, 0.138, 0.118, 0.163, 0.080, 0.121, 0.114, 0.076),
        (0.125, 0.212, 0.205, 0.178, 0.128, 0.170, 0.145, 0.123, 0.169, 0.084, 0.126, 0.118, 0.083),
        (0.123, 0.215, 0.207, 0.177, 0.123, 0.169, 0.143, 0.120, 0.169, 0.080, 0.123, 0.116, 0.075),
        (0.125, 0.215, 0.208, 0.181, 0.130, 0.170, 0.145, 0.124, 0.170, 0.082, 0.125, 0.119, 0.078),
        (0.124, 0.213, 0.207, 0.179, 0.124, 0.169, 0.144, 0.123, 0.168, 0.082, 0.124, 0.120, 0.081),
    ],
    index=[*SUBJECTS, *VITS, *STEPS],
    columns=COLUMNS,
)

# Table 14: accuracy after fine-tuning all of a network, its head on the last layer's class token;
# mean of 10 runs, and the ± that the row gives.
TABLE_14 = pd.DataFrame(
    [(0.640, 0.589, 0.627, 0.622, 0.008), (0.954, 0.936, 0.885, 0.946, 0.004)],
    index=["ISIC", "EuroSAT"],
    columns=["CLIP", "MAE", "SAM", "DiNOv2", "±"],
)

# Table 15: R² of single trials by the steps over which the layer term decays; mean of 3 runs.
TABLE_15 = pd.DataFrame(
    [(0.093, 0.128, 0.131, 0.132), (0.113, 0.126, 0.126, 0.125)],
    index=["CLIP", "DiNOv2"],
    columns=[2000, 4000, 6000, 8000],
)

# Table 16: methods on CLIP XL, mean of 3 runs: wall-clock time and multiply-adds as multiples of
# the first row's, R² of single trials. `variant` is the name of the same in `model.VARIANTS`.
TABLE_16 = pd.DataFrame(
    [
        ("classToken", "class-token", 1, 1, 0.100, 0.085, 0.075, 0.173),
        ("patchToken", "patch-token", 1, 1, 0.122, 0.176, 0.163, 0.165),
        ("GNetViT", "gnet", 94, 17, 0.124, 0.174, 0.146, 0.174),
        ("FactorTopy", "factortopy", 3, 1.2, 0.132, 0.205, 0.179, 0.175),
        ("w/o topology", "without-topology", 3, 1.4, 0.130, 0.197, 0.176, 0.174),
        ("no layer sel", "no-layer", 3, 1.2, 0.125, 0.181, 0.162, 0.174),
        ("no space sel", "no-space", 3, 1.2, 0.117, 0.094, 0.089, 0.175),
        ("no scale sel", "no-scale", 3, 1.2, 0.131, 0.201, 0.177, 0.175),
        ("multiple sample", "three-samples", 7, 1.6, 0.134, 0.207, 0.182, 0.176),
    ],
    columns=["method", "variant", "time ×", "MACs ×", "all", "V1v", "V3v", "EBA"],
).set_index("method")

# Appendix D.4 and Fig. 23: R² of single trials, all vertices, before and after fine-tuning.
FINE_TUNED = pd.DataFrame(
    [(0.131, 0.115), (0.128, 0.085), (0.111, 0.086)],
    index=["CLIP", "DiNOv2", "SAM"],
    columns=["before", "after"],
)

# NSD's noise ceilings of means over three trials, per cent: percentiles over nsdgeneral and RSC,
# from the arrays of the Algonauts 2023 challenge.
NSD_CEILINGS = pd.DataFrame(
    [
        (7.3, 24.9, 39.2, 51.5, 67.1),
        (5.4, 22.8, 41.0, 55.5, 72.0),
        (10.3, 29.4, 43.8, 55.7, 70.2),
        (1.3, 8.1, 16.6, 26.7, 43.9),
    ],
    index=["subj01", "subj02", "subj05", "subj08"],
    columns=[5, 25, 50, 75, 95],
)

# Median ncsnr over nsdgeneral of subj01 to subj08.
NSD_NCSNR = pd.Series(
    [0.490, 0.510, 0.431, 0.392, 0.542, 0.439, 0.371, 0.323],
    index=[f"subj{i:02d}" for i in range(1, 9)],
)

# Betas of subj01, first session, all of the left hemisphere, in per cent signal change.
NSD_BETAS = {"mean": 0.25, "sd": 1.75}

# Vertices of an atlas's area on fsaverage (Kastner2015), and of nsdgeneral.
NSD_AREAS = {"V1": (4276, 37984), "V2": (3391, 37984), "hV4": (914, 37984)}

# Vertices of each hemisphere in the Algonauts 2023 challenge: of the subjects that lack some, by
# number, and of the others.
CHALLENGE_VERTICES = {6: (18978, 20220), 8: (18981, 20530)}
CHALLENGE_OTHERS = (19004, 20544)


@dataclass(frozen=True)
class Contradiction:
    """Two places of the paper that don't agree, in our words."""

    about: str
    one: str
    other: str


CONTRADICTIONS = (
    Contradiction(
        "which networks change their late layers when fine-tuned",
        "Table 5 names DiNOv2 and MAE",
        "Appendix D.4 and Fig. 23 name SAM and DiNOv2",
    ),
    Contradiction(
        "which networks keep up with CLIP when fine-tuned",
        "Table 5 names DiNOv2 and MAE",
        "Appendix D.4 names SAM and DiNOv2; in Table 14 MAE is last on ISIC and SAM on EuroSAT",
    ),
    Contradiction(
        "brain score before fine-tuning",
        "Appendix D.4: CLIP .131, DiNOv2 .128, SAM .111",
        "Table 13: CLIP .132, DiNOv2 .126, SAM .110",
    ),
    Contradiction(
        "how MAE changes with size",
        "Table 5: alignment falls",
        "Appendix D.3: it rises from base to large, and falls from large to huge",
    ),
    Contradiction(
        "which network comes after CLIP in OFA",
        "Appendix D.1: DiNOv2, in all face, body and scene areas",
        "Table 13: MAE .127, DiNOv2 .122; in PPA both have .126",
    ),
    Contradiction(
        "the best time step in body areas",
        "Appendix D.1: T35 is best in EBA and FBA",
        "Table 13: T45 scores the same in both, .170 and .145",
    ),
    Contradiction(
        "FFA of subjects #2 and #3",
        "Appendix D.1: they are missing the region",
        "Table 13: a score in it for both, .136 and .151",
    ),
    Contradiction(
        "what separates the streams in the row of Table 5 on MoCov3",
        "the ventral stream is called the 'what' part",
        "so is the dorsal stream, where its usual name is meant",
    ),
    Contradiction(
        "CLIP's score and size",
        "Table 13: the 12-layer CLIP has .132 over all vertices",
        "Table 16: so has FactorTopy on CLIP XL, of 24 layers",
    ),
    Contradiction(
        "where the table of methods is",
        "Appendix F calls it Table 3, and its own section part of the main text",
        "it is Table 16; Table 3 is on fine-tuning",
    ),
    Contradiction(
        "coordinates of vertices",
        "Appendix E.1: of the inflated surface",
        "the released code reads those of the sphere",
    ),
    Contradiction(
        "decay of the layer term",
        "Appendix E.3: over 6000 steps, for all networks",
        "the released code's default is 2000, for which Table 15 has CLIP at .093 instead of .131",
    ),
    Contradiction(
        "what checkpoints are chosen on",
        "Appendix E.3: the ten best on validation data",
        "and then averaged so as to score best on the test set",
    ),
)


def contradictions_table() -> pd.DataFrame:
    """A row per contradiction: what it is about, and what each place says."""
    table = pd.DataFrame([asdict(c) for c in CONTRADICTIONS])
    return table.rename(columns={"about": "About", "one": "One place", "other": "Another"})
