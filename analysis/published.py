"""Numbers that the paper printed, to stand beside measured ones (Yang, Gee, Shi 2024)."""

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
