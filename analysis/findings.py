"""The rows of the paper's Table 5, and the scoreboard of those that were run.

    judged = judge(FINDINGS["clip-best"], evidence.clip_best(readings))
    run = Run("small", "fast", "factortopy", (0, 1, 2))
    record("sim01", judged, None, run)  # a page's result, for the scoreboard
    scoreboard("sim01", run)            # a row per finding; computes nothing

The claims are in our words; statistics and bounds are ours, set before any fit was judged. A false
claim is told to hold in at most 2.5 % of cases, since all of its parts have to, and a true one told
not to in at most 2.5 %, since the intervals are widened for the number of its parts: of 18 rows at
most .45 are expected to be told wrongly.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from analysis.files import InputError, data_root, folder_name, read_json, write_json
from analysis.verdicts import (
    PREDICTS,
    SEEDS,
    Finding,
    Judged,
    Measured,
    Part,
    Rule,
    Verdict,
    against_truth,
    judge,
)
from analysis.versions import VERSIONS

FAMILIES = ("CLIP", "SAM", "ImageNet", "DiNOv2", "MAE", "MoCov3")


def gate(family: str) -> str:
    """The name of the smallest R² of one family's networks."""
    return f"{PREDICTS}: {family}"


def _rows() -> Iterator[Finding]:
    """Table 5, in its order."""
    late, first = "R² in areas beyond V4", "R² in V1 to V3"
    yield Finding(
        "early-and-late", "Brain score",
        "MAE and SAM do relatively better in early visual cortex, CLIP and DiNOv2 in high-level"
        " regions.", "4.1, D.1", "Fig. 4; Tab. 1, 13",
        (Part("MAE, SAM against CLIP, DiNOv2", f"{first} less {late}: the mean of MAE and SAM less"
              " that of CLIP and DiNOv2"),),
    )  # fmt: skip
    yield Finding(
        "diffusion-uniform", "Brain score",
        "Stable Diffusion's late time steps are good in all regions alike.",
        "4.1, D.1", "Fig. 4; Tab. 1, 13",
        (Part("worst region", "mean R² of the steps from T35 on, as a share of the best ViT's, in"
              " the region where it is smallest, of those that a ViT surely predicts", Rule(0.8)),),
    )  # fmt: skip
    yield Finding(
        "diffusion-steps", "Brain score",
        "Stable Diffusion's late steps predict early regions best, its middle to late ones late"
        " regions.", "D.1", "Tab. 13",
        (Part("steps between", "best time step in V1 to V3 less the best one beyond V4"),),
    )  # fmt: skip
    yield Finding(
        "clip-best", "Alignment", "Of all networks, CLIP's layers follow the cortex best.",
        "4.2, 4.3", "Fig. 5; Tab. 2",
        tuple(Part(f"over {family}", f"CLIP's slope of depth over the hierarchy less {family}'s")
              for family in FAMILIES[1:]),
    )  # fmt: skip
    yield Finding(
        "last-layer-middle", "Alignment",
        "The last layers of ImageNet and SAM match mid-level regions: classifying and segmenting"
        " are mid-level tasks to the brain.", "4.2, D.2", "Fig. 5, 15",
        tuple(Part(f"{family}, {than}", f"last layer's mean weight in V4 less that in {where}")
              for family in ("ImageNet", "SAM")
              for than, where in (("not early", "V1 to V3"), ("not late", "areas beyond V4"))),
    )  # fmt: skip
    unused = "last layer's mean weight in the region of the largest, as a multiple of 1 / L"
    yield Finding(
        "last-layer-unused", "Alignment",
        "The last layers of DiNOv2 and MAE match no region: the brain doesn't reconstruct what is"
        " masked.", "4.2, D.2", "Fig. 5, 15",
        (Part("DiNOv2", unused, Rule(1, "below")), Part("MAE", unused, Rule(1, "below"))),
    )  # fmt: skip
    yield Finding(
        "moco-ventral", "Alignment",
        "MoCov3's last layers match the late ventral stream better than the dorsal one: contrasting"
        " teaches meaning more than space.", "4.2, D.2", "Fig. 5, 15",
        (Part("ventral less dorsal", "weight of the last sixth of the layers in FBA, FFA, PPA and"
              " VWFA less that in OPA"),),
    )  # fmt: skip
    yield Finding(
        "early-layers", "Alignment",
        "The early layers of CLIP and ImageNet match early visual cortex, those of SAM, DiNOv2, MAE"
        " and MoCov3 don't.", "4.2, D.2", "Fig. 5, 14",
        tuple(Part(f"{used} over {other}", "weight of the first quarter of the layers in V1 to V3,"
                   " of the one network less of the other")
              for used in ("CLIP", "ImageNet") for other in ("SAM", "DiNOv2", "MAE", "MoCov3")),
    )  # fmt: skip
    spread = "sd over regions of mean depth, less what chance adds"
    yield Finding(
        "diffusion-axes", "Alignment",
        "Stable Diffusion separates regions less by layer than by time step, by layer more in its"
        " encoder than in its decoder, and more softly than ViTs; its last steps match early"
        " regions, its middle to late ones late regions.", "4.2, D.2", "Fig. 6, 16",
        (Part("time, not layer", f"{spread} over time steps less the mean of that over encoder and"
              " over decoder layers"),
         Part("encoder, not decoder", f"{spread} over encoder layers less over decoder layers"),
         Part("softer", "mean confidence of the ViTs less that of Stable Diffusion"),
         Part("last steps early", "mean time in V1 to V3 less that beyond V4, 0 the first step and"
              " 1 the last")),
    )  # fmt: skip
    grows = "of the largest less of the smallest"
    yield Finding(
        "clip-size", "Model sizes",
        "CLIP's alignment improves with its size and training data, at its early and its late"
        " layers.", "4.3, D.3", "Fig. 5, 17",
        (Part("slope", f"slope {grows}"),
         Part("early", "depth at the hierarchy's start, of the smallest less of the largest"),
         Part("late", f"depth at its end, {grows}")),
    )  # fmt: skip
    falls = "slope of the smallest less of the largest"
    yield Finding(
        "other-sizes", "Model sizes",
        "The alignment of SAM, ImageNet, DiNOv2, MoCov3 and MAE falls with size: ImageNet's and"
        " DiNOv2's early layers, and SAM's, MAE's and MoCov3's late ones, leave the brain.",
        "4.3, D.3", "Fig. 5, 18-22",
        tuple(Part(f"{family} slope", falls, gate=gate(family)) for family in
              ("SAM", "ImageNet", "DiNOv2", "MoCov3", "MAE"))
        + tuple(Part(f"{family} early", f"depth at the hierarchy's start, {grows}",
                     gate=gate(family)) for family in ("ImageNet", "DiNOv2"))
        + tuple(Part(f"{family} late", "depth at its end, of the smallest less of the largest",
                     gate=gate(family)) for family in ("SAM", "MAE", "MoCov3")),
    )  # fmt: skip
    changed = "mean squared change of late vertices' depth by fine-tuning, less CLIP's"
    yield Finding(
        "fine-tuning-layout", "Fine-tuning",
        "CLIP keeps its alignment when fine-tuned; DiNOv2 and MAE change their late layers.",
        "4.4", "Fig. 7; Tab. 3", (Part("DiNOv2", changed), Part("MAE", changed)),
    )  # fmt: skip
    yield Finding(
        "fine-tuning-accuracy", "Fine-tuning",
        "How well a network is fine-tuned says nothing of how far its layout changed: CLIP does"
        " best, DiNOv2 and MAE nearly as well.", "D.4", "Tab. 14",
        (Part("CLIP best", "CLIP's accuracy less the best of the others', mean over tasks"),
         Part("no relation", "size of the rank correlation over networks of accuracy and change",
              Rule(0.5, "below"))),
    )  # fmt: skip
    yield Finding(
        "channels-and-places", "Channels",
        "Early visual cortex reads similar channels at diverse places; late cortex reads diverse"
        " channels, and the global token.", "4.5", "Fig. 8, 3",
        (Part("channels", "mean cosine between what two vertices read of the channels, in V1 to V3"
              " less beyond V4"),
         Part("places", "sd of vertices' places, in V1 to V3 less beyond V4"),
         Part("global token", "mean scale beyond V4 less in V1 to V3")),
        ("channels", "places", "global token"),
    )  # fmt: skip
    yield Finding(
        "top-channels", "Channels",
        "The channels that a region reads most show what it is for, and how networks differ.",
        "D.5", "Fig. 9, 29-34",
        (Part("category", "area under the curve by which a region's top channels tell pictures of"
              " its category from others, the smallest over regions", Rule(0.5)),),
        ("category",),
    )  # fmt: skip
    apart = (
        "mean squared difference of regions' {} between subjects, less that between seeds of one"
        " and less what chance adds"
    )
    yield Finding(
        "subjects-differ", "Consistency",
        "Subjects differ, consistently, in brain score and in alignment.",
        "D.1, 4.2", "Fig. 12, 4; Tab. 13",
        (Part("score", apart.format("R² / noise ceiling")),
         Part("alignment", apart.format("depth"))),
        ("alignment",),
    )  # fmt: skip
    yield Finding(
        "seeds-agree", "Consistency", "A subject's map is the same from seed to seed.",
        "D.2", "Fig. 13",
        (Part("map", "mean rank correlation of depth between seeds of a subject, the smallest over"
              " subjects", Rule(0.8)),),
    )  # fmt: skip
    yield Finding(
        "limited-data", "Consistency",
        "The map can be learnt from little data: 3,000 samples are a good balance of time and"
        " quality.", "G", "Fig. 28, 27",
        (Part("map", "rank correlation of depth with the map from all data and another seed",
              Rule(0.8)),
         Part("score", "R² as a share of that from all data", Rule(0.9))),
    )  # fmt: skip


FINDINGS = {finding.name: finding for finding in _rows()}


@dataclass(frozen=True)
class Run:
    """What a page was run on: recorded results of one run never mix with another's."""

    size: str  # of the comparison: networks, vertices, pictures
    recipe: str
    model: str
    seeds: tuple[int, ...]

    @property
    def comparison(self) -> tuple[str, str, str]:
        """All but the seeds: what rows on one scoreboard share."""
        return self.size, self.recipe, self.model

    def __str__(self) -> str:
        seeds = "seed" if len(self.seeds) == 1 else "seeds"
        each = ", ".join(map(str, self.seeds))
        return f"size {self.size}, recipe {self.recipe}, model {self.model}, {seeds} {each}"


def subject_folder(subject: str) -> Path:
    return data_root() / "findings" / folder_name(subject)


def _version() -> str:
    """The versions of what a page records and of the fits that it is of."""
    return f"v{VERSIONS['fit']}.{VERSIONS['finding']}"


def folder(subject: str, run: Run) -> Path:
    """Where the results of a subject's pages lie: of one run, and of these versions."""
    seeds = "-".join(map(str, run.seeds))
    label = folder_name("-".join([*run.comparison, f"seeds-{seeds}"]))
    return subject_folder(subject) / f"{label}-{_version()}"


def record(subject: str, judged: Judged, truth: Judged | None, run: Run) -> Judged:
    """Write a page's result for the scoreboard, whole, in place of an earlier one; returns it."""
    written: dict[str, Any] = {"run": asdict(run), "seeds": judged.seeds}
    for name, result in (("judged", judged), ("truth", truth)):
        if result is not None:
            written[name] = {part: asdict(m) for part, m in result.measured.items()}
    write_json(folder(subject, run) / f"{judged.finding.name}.json", written)
    return judged


def recorded(subject: str, finding: Finding, run: Run) -> dict[str, Judged]:
    """What a page has recorded of this run: `judged`, and `truth` if it is known; else nothing.

    Raises:
        InputError: for a damaged file.
    """
    path, mend = folder(subject, run) / f"{finding.name}.json", "Run the finding's page again."
    if not path.exists():
        return {}
    found = read_json(path, "a page's result", mend)
    try:
        return {
            name: judge(finding, {k: Measured(**m) for k, m in found[name].items()}, seeds)
            for name, seeds in (("judged", int(found["seeds"])), ("truth", SEEDS))
            if name in found or name == "judged"
        }
    except (TypeError, AttributeError, KeyError, ValueError, InputError) as error:
        raise InputError(f"{path}: not a page's result ({error}). {mend}") from error


def runs(subject: str) -> list[Run]:
    """The runs of this code that a page of a subject has recorded results of, most seeds first."""
    found = set()
    for path in subject_folder(subject).glob(f"*-{_version()}/*.json"):
        told = read_json(path, "a page's result", "Run the finding's page again.")
        try:
            found.add(Run(**told["run"] | {"seeds": tuple(told["run"]["seeds"])}))
        except (TypeError, KeyError) as error:
            mend = "Run the finding's page again."
            raise InputError(f"{path}: not a page's result ({error}). {mend}") from error
    return sorted(found, key=lambda run: (-len(run.seeds), str(run)))


def subjects() -> list[str]:
    """Those of whom a page has recorded a result, by name."""
    found = (data_root() / "findings").glob(f"*/*-{_version()}/*.json")
    return sorted({path.parent.parent.name for path in found})


def run_of(subject: str, size: str = "") -> Run | None:
    """The one run of a size (any, if none is named) that pages have recorded; None without any.

    Of runs that differ in their seeds alone, that with most.

    Raises:
        InputError: if there are several that differ in more.
    """
    there = [run for run in runs(subject) if size in ("", run.size)]
    if len({each.comparison for each in there}) > 1:
        raise InputError(
            f"{subject}: results of several runs; expected one of them to be named:"
            f" {'; '.join(map(str, there))}."
        )
    return there[0] if there else None


def scoreboard(
    subject: str,
    run: Run | None = None,
    printed: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """A row per finding: claim, source, verdict, its `Judged`, what truth says of it, run, and the
    numbers that the paper prints.

    Of one run and this code; a row is of that with the most seeds, if its page had others than the
    run's. `printed`: `reported.printed_numbers()`.
    """
    shown = run or run_of(subject)
    like = [r for r in runs(subject) if shown and r.comparison == shown.comparison]
    rows = []
    for name, finding in FINDINGS.items():
        found, of = {}, None
        for of in like:
            if found := recorded(subject, finding, of):
                break
        judged = found.get("judged", Judged(finding, {}))
        rows.append(
            {
                "About": finding.about,
                "Finding": name,
                "Claim": finding.claim,
                "Source": finding.source,
                "Verdict": judged.verdict,
                "Judged": judged,
                "Against truth": against_truth(judged, found.get("truth")),
                "Printed": (printed or {}).get(name, {}),
                "Run": str(of) if found else "",
            }
        )
    return pd.DataFrame(rows)


def counts(board: pd.DataFrame) -> dict[str, int]:
    """How many rows of a scoreboard have each verdict."""
    return {verdict: int((board["Verdict"] == verdict).sum()) for verdict in get_args(Verdict)}
