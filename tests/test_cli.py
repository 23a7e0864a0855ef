"""The command line says what a stranger needs, and ends bad input with one message."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from analysis.__main__ import main
from analysis.files import NSDTree

COMMANDS = {
    "fetch": ["--subject", "--backbone", "--dry-run", "--accept-nsd-terms", "--jobs"],
    "verify": ["--subject", "--kind"],
    "prepare": ["SUBJECT", "--sessions"],
    "simulate": ["sim01", "-tiny", "-full", "truth"],
    "extract": ["SUBJECT", "--backbone", "clip-mini", "--weights", "checkpoint"],
    "fit": ["SUBJECT", "--recipe", "fast; paper", "--seed", "goes on from its last epoch"],
    "predict": ["FIT", "SUBJECT/NETWORK", "frames", "--skip", "without any fMRI data"],
    "export": ["FIT", "GIFTI and MGH", "--full"],
    "finetune": ["PICTURES", "isic", "eurosat", "--layer", "--method", "lora", "--seeds", "--rate"],
    "backbones": ["networks"],
    "study": ["STUDY", "workflow/studies/default.yaml", "--jobs"],
    "make": ["JOB", "--threads", "--accept-nsd-terms"],
    "status": ["how large", "how old"],
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in this process, on an empty data folder unless told another."""

    def call(*args, data=tmp_path):
        monkeypatch.setenv("BRAINMAPS_DATA", str(data))
        return CliRunner().invoke(main, args)

    return call


def stranger(*args, data):
    """Run a command as a stranger does."""
    return subprocess.run(
        [sys.executable, "-m", "analysis", *args],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"BRAINMAPS_DATA": str(data)},
    )


def test_help_names_every_command_and_where_data_lie(run):
    for flag in ("--help", "-h"):
        done = run(flag)
        assert done.exit_code == 0
        for words in (*COMMANDS, "BRAINMAPS_DATA", "data/", "visual cortex"):
            assert words in done.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_says_what_it_takes(run, command):
    done = run(command, "--help")
    assert done.exit_code == 0
    said = " ".join(done.output.split())
    for words in ("Usage:", *COMMANDS[command]):
        assert words in said


def test_every_command_is_shown_here():
    assert set(main.commands) == set(COMMANDS)


BAD = {
    "fetch of nothing": (["fetch"], "nothing selected: name a subject"),
    "fetch of nobody": (
        ["fetch", "--subject", "subj9"],
        "subject 'subj9': expected one of .*subj0",
    ),
    "fetch without terms": (
        ["fetch", "--subject", "subj01", "--kind", "ncsnr"],
        "accept-nsd-terms",
    ),
    "fetch of a form": (
        ["fetch", "--subject", "algonauts-subj01"],
        "subj01.zip: not found; .*form",
    ),
    "unknown split": (["fit", "sim01-tiny", "--split", "half"], "scheme='half': expected one of"),
    "too many trials": (["fit", "sim01-tiny", "--trials", "9999"], "trials=9999: sim01-tiny has"),
    "no fit": (["predict", "sim01/clip-mini", "a.png"], "no finished fit of that SUBJECT/NETWORK"),
    "no pictures": (["predict", "sim01/clip-mini"], "Missing argument 'PICTURES...'"),
    "export of no fit": (["export", "."], "not a fit; expected a folder with fit.json"),
    "pictures of no set": (["finetune", "cats"], "'cats': expected colour, shape, isic, eurosat"),
    "pictures not fetched": (["finetune", "isic"], "not found; expected ISIC's labels. Run `pyth"),
    "unknown method": (["finetune", "shape", "--method", "some"], "method='some': expected one of"),
    "no such layer": (
        ["finetune", "shape", "--layer", "9"],
        "layer=9: clip-mini has layers 1 to 8",
    ),
    "tuned to nothing": (["fit", "sim01-tiny", "--backbone", "tuned:x"], "no such tuned network"),
    "no such command": (["fitt"], "No such command 'fitt'"),
    "no subject": (["prepare"], "Missing argument 'SUBJECT'"),
    "no photographs": (["simulate", "--stimuli", "gone"], "Directory 'gone' does not exist"),
    "unknown subject": (["simulate", "subj01"], "subject 'subj01': a simulated one is sim01, sim0"),
    "unknown size": (["simulate", "sim01-huge"], "'sim01-huge': a simulated one is sim01"),
    "unknown person": (["extract", "subj09"], "subject 'subj09': expected subj01, .*simulated"),
    "no tree": (["extract", "subj01"], "nsd: not found; expected the NSD tree of subj01. See"),
    "fit of no tree": (["fit", "subj01"], "nsd: not found; expected the NSD tree of subj01. See"),
    "unknown recipe": (["fit", "sim01-tiny", "--recipe", "long"], "recipe 'long': expected one of"),
    "unknown region": (["fit", "sim01-tiny", "--region", "V9"], "region=.'V9'.: expected 'nsdgen"),
    "unknown mesh": (["fit", "sim01-tiny", "--mesh", "99"], "n_surface=99: expected one of 642"),
    "unknown space": (
        ["fit", "sim01-tiny", "--space", "flat"],
        "'flat' is not one of 'inflated', 'sphere'",
    ),
    "region of own data": (["fit", "own-x", "--region", "V1"], "own/x: not found"),
    "unknown model": (["fit", "sim01-tiny", "--model", "mlp"], "variant 'mlp': expected one of"),
    "unknown setting": (["fit", "sim01-tiny", "--set", "colour=red"], "colour: expected one of mo"),
    "setting of nothing": (
        ["fit", "sim01-tiny", "--set", "batch"],
        "--set batch: expected NAME=VA",
    ),
    "setting of text": (
        ["fit", "sim01-tiny", "--set", "warm_up=a"],
        "warm_up=a: expected a number, such",
    ),
    "setting of no truth": (
        ["fit", "sim01", "--set", "topology=1"],
        "topology=1: expected true or",
    ),
    "setting out of range": (
        ["fit", "sim01", "--set", "batch=0"],
        "recipe: batch=0; expected at le",
    ),
    "no thread": (["fit", "sim01-tiny", "--threads", "0"], "0 is not in the range x>=1"),
    "seed of text": (["fit", "sim01-tiny", "--seed", "x"], "'x' is not a valid integer"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_message_and_exit_code_2(run, kind):
    args, message = BAD[kind]
    done = run(*args)
    said = " ".join(done.output.split())
    assert done.exit_code == 2 and "Traceback" not in said
    assert said.count("Error:") == 1
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--backbone", "resnet"], "backbone 'resnet': expected one of .*clip-xl, .*clip-mini"),
        (["--weights", "gone.pt"], "weights='gone.pt': no such file; expected 'pretrained', 'rand"),
        (["--weights", "pretrained"], "weights='pretrained': clip-mini has no checkpoint"),
    ],
)
def test_a_bad_network_is_one_message_and_exit_code_2(run, data_folder, args, message):
    for command in ("extract", "fit"):
        done = run(command, "sim01-tiny", *args, data=data_folder)
        assert done.exit_code == 2
        assert re.search(message, " ".join(done.output.split())), done.output


def test_a_damaged_tree_is_one_message_and_exit_code_2(run, tree_copy):
    tree_copy.root.rename(tree_copy.root.parent / "elsewhere")
    (tree_copy.root.parent / "nsd").mkdir()
    done = run("extract", "subj01", data=tree_copy.root.parent)
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "nsd_expdesign.mat: not found; expected NSD's experimental design. See" in said


def test_backbones_lists_every_network(run):
    from analysis.backbones import CARDS

    done = run("backbones")
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()] == ["name", *CARDS]
    assert "85,798,656      1.198 CC BY-NC 4.0" in done.output  # mae-b
    as_json = json.loads(run("backbones", "mae-h", "--json").output)
    assert as_json["mae-h"]["disagreements"][0]["paper"] == 16 and as_json["mae-h"]["patch"] == 14
    assert as_json["mae-h"]["checkpoint"].endswith("/mae_pretrain_vit_huge.pth")


def test_backbones_are_listed_without_loading_a_library():
    code = (
        "import sys; from analysis.__main__ import main;"
        "main(['backbones'], standalone_mode=False);"
        "assert not {'torch', 'timm', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_simulate_says_what_it_did_and_where(run, data_folder):
    done = run("simulate", "sim01-tiny", data=data_folder)
    assert done.exit_code == 0
    assert done.output == f"sim01-tiny: already in {data_folder / 'simulated/tiny/nsd'}\n"


def test_status_of_an_empty_folder_says_so(run, tmp_path):
    for data in (tmp_path, tmp_path / "not/there"):
        done = run("status", data=data)
        assert done.exit_code == 0
        assert done.output == f"data folder: {data}\nnothing there yet\n"


def test_status_lists_subject_and_pictures(run, data_folder, monkeypatch):
    tree = NSDTree(data_folder / "simulated/tiny/nsd")
    written = max(f.stat().st_mtime for f in tree.beta_folder("sim01").iterdir())
    now = written + 1.5 * 3600  # or a slow machine would be seen in the ages
    monkeypatch.setattr("analysis.status.time", SimpleNamespace(time=lambda: now))
    pictures = (now - tree.stimuli.stat().st_mtime) / 3600
    done = run("status", data=data_folder)
    assert done.exit_code == 0
    rows = [" ".join(line.split()) for line in done.output.splitlines()]
    assert rows[:2] == [f"data folder: {data_folder}", "kind name state size age"]
    assert "subject sim01-tiny 2 sessions 0.6 MB 1.5 h" in rows
    assert f"pictures tiny whole 0.3 MB {pictures:.1f} h" in rows


def test_status_marks_what_a_stopped_run_left(run, tree_copy, tmp_path):
    folder = tmp_path / "simulated/tiny"
    folder.mkdir(parents=True)
    tree_copy.root.rename(folder / "nsd")  # a tree without its record
    done = run("status")
    assert "sim01-tiny 2 sessions, unfinished or of older code" in " ".join(done.output.split())


def test_status_says_what_is_there_of_nsd_weights_and_other_data(run, tmp_path):
    betas = tmp_path / "nsd/nsddata_betas/ppdata/subj03/fsaverage/betas_fithrf_GLMdenoise_RR"
    betas.mkdir(parents=True)
    (betas / "lh.ncsnr.mgh").write_bytes(bytes(655652))
    (betas / "lh.betas_session01.mgh").write_bytes(bytes(1000))  # cut: not counted as there
    weights = tmp_path / "weights/.sam_vit_b_01ec64.pth.0123456789ab.part"
    weights.parent.mkdir()
    weights.write_bytes(bytes(500))
    (tmp_path / "algonauts2023/subj01").mkdir(parents=True)
    (tmp_path / "own/mine").mkdir(parents=True)
    said = " ".join(run("status").output.split())
    # 64 betas of 491.5 MB, the pictures of 39.56 GB and small files, less what is there
    assert re.search(r"subj03 1 sessions, 1 of 88 files, 71\.0\d GB to fetch", said), said
    assert "weights sam-b 0 of 1 files" in said
    assert "subject algonauts-subj01 checked when read" in said
    assert "subject own-mine checked when read" in said


def test_extract_makes_the_tokens_of_several_networks_and_says_how_many(run, data_folder):
    arguments = ["extract", "sim01-tiny", "--backbone", "mae-mini-s", "--backbone", "sd-mini@T50"]
    done = run(*arguments, "--grid", "4", data=data_folder)
    assert done.exit_code == 0, done.output
    for name in ("mae-mini-s", "sd-mini@T50"):
        assert f"{name}: tokens of 40 pictures are made, 0.0" in done.output
        assert re.search(
            f"{name}: tokens of 40 pictures in .*mean length of a local token", done.output
        )
    again = run(*arguments, "--grid", "4", data=data_folder)
    assert "are made" not in again.output
    folder = re.search(r"mae-mini-s: tokens of 40 pictures in (\S+);", done.output)[1]
    (part,) = Path(folder).glob("*.safetensors")
    raw = bytearray(part.read_bytes())
    raw[-3] ^= 1
    part.write_bytes(raw)
    mended = run(*arguments, "--grid", "4", "--verify", data=data_folder)
    assert "other bytes than were written. Its pictures are made again" in mended.output


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--pooling", "max", "pooling='max': expected 'area' or 'bilinear'"),
        ("--precision", "fp8", "precision='fp8': expected 'float32' or 'bfloat16'"),
        ("--grid", "0", "grid=0: expected 1 or more"),
        ("--normalisation", "none", "normalisation='none': expected 'native' or 'imagenet'"),
    ],
)
def test_an_unknown_form_of_tokens_is_told(run, data_folder, option, value, said):
    done = run("extract", "sim01-tiny", option, value, data=data_folder)
    assert done.exit_code == 2 and said in " ".join(done.output.split())


def test_status_lists_caches_and_fits(run, tmp_path):
    (tmp_path / "fits/sim01-clip-mini/0a").mkdir(parents=True)
    done = run("status")
    assert "sim01-clip-mini/0a under way or stopped" in " ".join(done.output.split())


def test_a_stranger_simulates_and_sees_one_line(run, tmp_path):
    """In a process of its own: no traceback, no warning, no bar where nobody watches."""
    done = stranger("simulate", "sim02-tiny", data=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"sim02-tiny: written to {tmp_path / 'simulated/tiny/nsd'}\n"
    assert "sim02-tiny 2 sessions" in " ".join(run("status").output.split())


def test_a_strangers_mistake_is_one_message(tmp_path):
    done = stranger("extract", "sim09", data=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("Error:") == 1 and "Traceback" not in done.stderr
    assert "'sim09': a simulated one is sim01, sim02, sim03" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_dry_run_lists_every_file_and_changes_nothing(run, tmp_path):
    done = run("fetch", "--subject", "subj01", "--dry-run")
    assert done.exit_code == 0
    assert done.output.count("betas_session") == 80
    assert "39.32 GB" in done.output and "free on the disk of" in done.output
    assert "nsd/nsddata/experiments/nsd/nsd_expdesign.mat" in done.output
    assert not (tmp_path / "data/nsd").exists()


def test_verify_ends_with_1_where_files_are_missing(run):
    done = run("verify", "--subject", "subj01", "--kind", "ncsnr")
    assert done.exit_code == 1
    assert "missing  nsd/nsddata_betas" in done.output and "2 missing" in done.output


def test_prepare_says_what_is_there_and_whether_noise_ceilings_agree(run, data_folder):
    done = run("prepare", "sim01-tiny")
    assert done.exit_code == 0
    assert "120 trials in 2 sessions, 152 vertices, 1 left out" in done.output
    assert "correlation 1.00000" in done.output


def test_status_counts_a_persons_files_and_shows_what_is_prepared(run, tmp_path, data_folder):
    from analysis.files import NSDTree, data_root

    run("prepare", "sim01-tiny")
    betas = NSDTree(data_root() / "nsd").betas("subj02", "lh", 1)
    betas.parent.mkdir(parents=True)
    betas.write_bytes(b"begun")
    done = run("status")
    assert done.exit_code == 0, done.output
    assert "1 sessions, 0 of 104 files" in done.output
    assert "prepared" in done.output and "sim01-tiny-" in done.output


def test_settings_are_changed_by_name_and_a_soup_on_test_pictures_says_so(run, data_folder):
    from analysis.files import read_json

    changes = ["readout_rate=2", "soup=test", "topology=false", "betas=0.8,0.99", "max_steps=20"]
    options = [x for change in changes for x in ("--set", change)]
    done = run("fit", "sim01-tiny", "--recipe", "check", "--threads", "1", *options)
    assert done.exit_code == 0, done.output
    assert "10 test (chose the soup) pictures" in done.output
    record = read_json(Path(re.search(r"fit: (\S+)", done.output)[1]) / "fit.json", "", "")
    recipe, model = record["key"]["recipe"], record["key"]["model"]
    assert (recipe["readout_rate"], recipe["soup"], recipe["betas"]) == (2.0, "test", [0.8, 0.99])
    assert model["topology"] is False and record["result"]["steps"] == 20
    assert re.search(r"step 20 of at most 20: loss \S+, validation R² \S+ \(best", done.stderr)


def test_a_study_is_drawn_up_and_its_jobs_are_made_one_by_one(run, data_folder, tmp_path) -> None:
    study = tmp_path / "some.yaml"
    study.write_text(
        "subjects: [sim01-tiny]\nsize: paper\nfits:\n  - {backbones: [mae-mini-s], recipe: check}\n"
    )
    said = run("study", str(study), "--jobs", data=data_folder).output
    assert "study some: 4 jobs" in said and "to do  fit-sim01-tiny-mae-mini-s-" in said
    jobs = re.findall(r"(?:to do|there)  (\S+-\S+)$", said, re.M)
    assert [job.partition("-")[0] for job in jobs] == ["simulate", "prepare", "extract", "fit"]
    for job in jobs:
        assert run("make", str(study), job, data=data_folder).exit_code == 0
    said = run("study", str(study), "--jobs", data=data_folder).output
    assert "4 jobs, 0 to do" in said and said.count("there  ") == 4
    wrong = run("make", str(study), "fit-nobody", data=data_folder)
    assert wrong.exit_code == 2 and "job 'fit-nobody': not of" in wrong.output
