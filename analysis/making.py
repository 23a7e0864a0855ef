"""One job of a study made: what is there is read, what isn't is made, and receipts are noted.

make(get_plan(study).jobs["fit-sim01-clip-mini-6f0e2a3b"])
"""

from analysis.fetch import fetch
from analysis.files import data_root
from analysis.jobs import Job
from analysis.lessons import lesson_of
from analysis.manifest import data_manifest, select
from analysis.receipts import note
from analysis.study import Study, Wanted, extract_tokens, get_subject


def _fetch(job: Job, accepted: bool) -> None:
    manifest = data_manifest()
    subjects, backbones, sources = (
        [job.about[k]] if k in job.about else [] for k in ("subject", "backbone", "source")
    )
    files = select(manifest, subjects, backbones=backbones, sources=sources)
    fetch(manifest, files, accept_terms=accepted)
    (made,) = job.makes
    note(data_root() / made, [file.place for file in files])


def make(job: Job, accepted: bool = False) -> None:
    """Make what a job of a study makes, up to its fits; what is there is not made again.

    `accepted`: NSD's terms are, without which nothing of NSD is fetched.

    Raises:
        InputError: for data that can't be used, or terms that are not accepted.
    """
    wanted = [Wanted(**names) for names in job.about.get("wanted", [])]
    study = Study()
    if job.stage == "fetch":
        _fetch(job, accepted)
    elif job.stage == "simulate":
        get_subject(job.about["subject"])
    elif job.stage == "prepare":
        study.person(wanted[0])
    elif job.stage == "finetune":
        lesson_of(**job.about).tuned()
    elif job.stage == "extract":
        views = [w.backbone.partition("@") for w in wanted]
        if len(wanted) > 1 and all(at for _, at, _ in views):
            every = "+".join(view for *_, view in views)
            first = wanted[0]
            extract_tokens(
                study.person(first), f"{views[0][0]}@{every}", first.weights,
                normalisation=first.normalisation,
            )  # fmt: skip
        for w in wanted:
            study.data(w)
    elif job.stage == "fit":
        for w in wanted:
            study.fit(w)
