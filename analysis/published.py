"""Numbers that others printed, to stand beside measured ones.

Table 13 is of Yang, Gee and Shi 2024; the rest is known of NSD.
"""

import pandas as pd

# Table 13, top: R² of single trials, mean over vertices (± 0.001), CLIP L, NSD's first subjects.
COLUMNS = ("all", "V1", "V2", "V3", "V4", "EBA", "FBA", "OFA", "FFA", "OPA", "PPA", "OWFA", "VWFA")
TABLE_13 = pd.DataFrame(
    [
        (0.132, 0.216, 0.209, 0.185, 0.139, 0.176, 0.157, 0.129, 0.182, 0.091, 0.130, 0.121, 0.092),
        (0.154, 0.247, 0.183, 0.192, 0.188, 0.182, 0.134, 0.098, 0.136, 0.126, 0.199, 0.083, 0.140),
        (0.104, 0.155, 0.128, 0.108, 0.105, 0.134, 0.137, 0.080, 0.151, 0.081, 0.125, 0.104, 0.087),
    ],
    index=["CLIP (subject #1)", "CLIP (subject #2)", "CLIP (subject #3)"],
    columns=COLUMNS,
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
