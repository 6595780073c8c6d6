"""Whether a save is complete, judged by earlier saves, formats and libraries' layouts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from runctl.checkpoint.folder_state import FileState, FolderState, scan_folder
from runctl.checkpoint.formats import Verdict
from runctl.checkpoint.save_groups import place_of, save_of
from runctl.checkpoint.settling import Settling, Snapshot
from runctl.checkpoint.wholeness import MAX_MISSING_TIME, MIN_MISSING_TIME, WORTH_SAYING, Wholeness
from runctl.model.errors import CheckpointError

MINUTE = MIN_MISSING_TIME.total_seconds()


@dataclass
class Knowing:
    """An inspector that returns what the test states."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    named: dict[str, frozenset[str]] = field(default_factory=dict)

    def verdict(self, path: str, seen: FileState) -> Verdict | None:
        del seen
        return self.verdicts.get(path)

    def text(self, path: str, seen: FileState) -> str:
        del seen
        return self.texts.get(path, "")

    def records(self, path: str, seen: FileState) -> frozenset[str]:
        del seen
        return self.named.get(path, frozenset())


def folder(*paths: str, at: int = 1, empty: tuple[str, ...] = ()) -> FolderState:
    """Return a folder with these files and their parent folders."""
    view: FolderState = {}
    for path in (*paths, *empty):
        parent = path.rpartition("/")[0]
        while parent:
            view[parent] = FileState("dir", 0o755, 1)
            parent = parent.rpartition("/")[0]
        size = 0 if path in empty else 10
        view[path] = FileState("file", 0o644, at, size, (1, hash(path) % (1 << 40)))
    return view


def judge(taken: FolderState | None = None, inspector: Knowing | None = None) -> Settling:
    return Settling(
        taken or {},
        quiet=timedelta(seconds=1),
        limit=timedelta(seconds=2),
        wholeness=Wholeness(inspector or Knowing()),
    )


def settle(settling: Settling, view: FolderState, at: float = 0.0) -> Snapshot | None:
    """Scan an unchanging folder until it is quiet."""
    first = settling.observe(view, set(), at)
    return settling.observe(view, set(), at + 1.5) or first


PATTERNS = [
    (["ckpt-1/a.bin", "ckpt-1/b.json"], ["ckpt-2/a.bin"], "ckpt-2/b.json"),
    (["checkpoint-500/model.pt", "checkpoint-500/opt.pt"], ["checkpoint-1000/model.pt"],
     "checkpoint-1000/opt.pt"),
    (["epoch_1.pt", "epoch_1.json"], ["epoch_2.pt"], "epoch_2.json"),
    (["epoch_09.pt", "epoch_09.json"], ["epoch_10.json"], "epoch_10.pt"),
    (["rank0_step_5", "rank1_step_5"], ["rank1_step_10"], "rank0_step_10"),
    (["step5/rank0.pt", "step5/rank1.pt"], ["step6/rank0.pt"], "step6/rank1.pt"),
    (["out/run/iter_0000100/mp_rank_00/model.pt", "out/run/iter_0000100/mp_rank_01/model.pt"],
     ["out/run/iter_0000200/mp_rank_00/model.pt"], "out/run/iter_0000200/mp_rank_01/model.pt"),
    (["checkpoint-5/global_step5/x.pt", "checkpoint-5/latest"], ["checkpoint-6/global_step6/x.pt"],
     "checkpoint-6/latest"),
    (["ckpt-1/model-1.pt", "ckpt-1/optim-1.pt"], ["ckpt-2/model-2.pt"], "ckpt-2/optim-2.pt"),
    (["model.ckpt-5.meta", "model.ckpt-5.pb"], ["model.ckpt-10.pb"], "model.ckpt-10.meta"),
    (["G_100.pth", "D_100.pth"], ["G_200.pth"], "D_200.pth"),
    (["1000/state/a", "1000/meta"], ["2000/state/a"], "2000/meta"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "half", "last"), PATTERNS)
def test_save_needs_the_files_of_the_previous_one(
    before: list[str], half: list[str], last: str
) -> None:
    settling = judge(folder(*before))
    view = folder(*before, *half)
    assert settle(settling, view) is None
    assert settle(settling, view, 10) is None
    assert settling.wholeness.reasons
    snapshot = settle(settling, view | folder(*half, last), 20)
    assert snapshot is not None
    assert {*half, last} <= snapshot.view.keys()
    assert not settling.wholeness.reasons


@pytest.mark.parametrize(("before", "half", "last"), PATTERNS)
def test_first_snapshot_of_several_saves_omits_those_that_lack_files_of_the_first(
    before: list[str], half: list[str], last: str
) -> None:
    del last
    snapshot = settle(judge(), folder(*before, *half))
    assert snapshot is not None
    assert set(before) <= snapshot.view.keys()
    assert not set(half) & snapshot.view.keys()


def test_empty_file_does_not_count_if_the_previous_save_had_content() -> None:
    before = folder("ckpt-1/w.bin", "ckpt-1/step")
    settling = judge(before)
    assert settle(settling, before | folder("ckpt-2/step", empty=("ckpt-2/w.bin",))) is None
    snapshot = settle(settling, before | folder("ckpt-2/step", "ckpt-2/w.bin"), 10)
    assert snapshot is not None
    assert snapshot.view["ckpt-2/w.bin"].size == 10


@pytest.mark.parametrize("name", ["ckpt-1/w.bin", "model.pt", "last/state.json"])
def test_first_save_with_an_empty_file_is_delayed_and_then_accepted(name: str) -> None:
    settling = judge()
    view = folder("ckpt-1/a.txt", empty=(name,))
    snapshot = settle(settling, view)
    assert snapshot is None or name not in snapshot.view
    assert settle(settling, view, MINUTE + 1) is not None


@pytest.mark.parametrize("name", ["ckpt-2/DONE", "ckpt-2/.lock", "events.log", "__init__.py"])
def test_marker_may_be_empty(name: str) -> None:
    before = folder("ckpt-1/w.bin", empty=(name.replace("2", "1"),))
    snapshot = settle(judge(before), before | folder("ckpt-2/w.bin", empty=(name,)))
    assert snapshot is not None
    assert {"ckpt-2/w.bin", name} <= snapshot.view.keys()


def test_what_only_some_saves_have_is_not_required() -> None:
    before = folder("ckpt-1/w.bin", "ckpt-1/extra", "ckpt-2/w.bin")
    assert settle(judge(before), before | folder("ckpt-3/w.bin")) is not None
    best = folder("epoch-1.pt", "model_best_1.pt", "epoch-2.pt")
    assert settle(judge(folder("epoch-1.pt", "model_best_1.pt")), best) is not None


def test_names_that_are_unique_to_a_save_are_not_required() -> None:
    before = folder("ckpt-1/w.bin", "ckpt-1/events.out.tfevents.1700000001.host.12.0")
    after = folder("ckpt-2/w.bin", "ckpt-2/events.out.tfevents.1700000999.host.13.0")
    assert settle(judge(before), before | after) is not None


def test_deliberate_change_of_what_is_saved_is_accepted_after_a_while() -> None:
    before = folder("ckpt-1/w.bin", "ckpt-1/optimizer.pt")
    settling = judge(before)
    view = before | folder("ckpt-2/w.bin")
    assert settle(settling, view) is None
    assert settling.observe(view, set(), MINUTE - 1) is None
    assert settling.observe(view, set(), MINUTE + 2) is not None
    assert settling.wholeness.newly_tolerated() == [
        "ckpt-2 has no optimizer.pt, unlike the previous saves"
    ]
    assert settling.wholeness.newly_tolerated() == []
    # From then on, this is how the program saves.
    assert settle(settling, view | folder("ckpt-3/w.bin"), 2 * MINUTE) is not None


def test_deliberate_change_by_a_program_that_saves_often_and_keeps_one_is_accepted() -> None:
    settling = judge(folder("ckpt-1/w.bin", "ckpt-1/optimizer.pt"))
    taken_at = None
    for number in range(2, 60):
        view = folder(f"ckpt-{number}/w.bin", at=number)
        if settle(settling, view, 5.0 * number) and taken_at is None:
            taken_at = 5.0 * number
    assert taken_at is not None
    assert taken_at <= MINUTE + 20


def test_frequent_saves_whose_last_file_is_always_late_are_never_stored_without_it() -> None:
    settling = judge(folder("ckpt-1/w.bin", "ckpt-1/b.json"))
    for number in range(2, 60):
        now = 20.0 * number
        half, whole = f"ckpt-{number}/w.bin", f"ckpt-{number}/b.json"
        for second in range(15):
            snapshot = settling.observe(folder(half, at=number), set(), now + second)
            assert snapshot is None
        snapshot = settle(settling, folder(half, whole, at=number), now + 16)
        assert snapshot is not None
        assert whole in snapshot.view


def test_slow_saves_are_waited_for_longer() -> None:
    minutes_apart = {
        **folder("ckpt-1/w.bin", at=0),
        **folder("ckpt-1/b.json", at=200 * 10**9),
    }
    settling = judge(minutes_apart)
    view = {**minutes_apart, **folder("ckpt-2/w.bin", at=10**12)}
    assert settle(settling, view) is None
    assert settling.observe(view, set(), 999) is None
    assert settling.observe(view, set(), 1002) is not None
    assert timedelta(seconds=1000) < MAX_MISSING_TIME


def test_only_an_unrequested_end_settles_what_the_program_wanted_to_save() -> None:
    before = folder("ckpt-1/w.bin", "ckpt-1/optimizer.pt")
    view = before | folder("ckpt-2/w.bin")
    nothing: frozenset[str] = frozenset()
    for abrupt, is_over, taken in ((False, True, True), (False, False, False), (True, True, False)):
        snapshot = judge(before).final(view, 9, torn=nothing, abrupt=abrupt, is_over=is_over)
        assert (snapshot is not None) == taken


def test_complete_save_is_stored_while_another_is_left_out() -> None:
    before = folder("ckpt-1/w.bin", "ckpt-1/b.json", "log.txt")
    settling = judge(before)
    view = before | folder("ckpt-2/w.bin", "ckpt-2/b.json", "ckpt-3/w.bin", "log.txt", at=2)
    snapshot = settle(settling, view)
    assert snapshot is not None
    assert {"ckpt-2/w.bin", "ckpt-2/b.json", "log.txt"} <= snapshot.view.keys()
    assert not {"ckpt-3", "ckpt-3/w.bin"} & snapshot.view.keys()
    assert snapshot.is_incomplete("ckpt-3/w.bin")


def test_save_removed_in_favor_of_an_incomplete_one_stays_in_the_checkpoint() -> None:
    settling = judge(folder("ckpt-1/w.bin", "ckpt-1/b.json", "log.txt"))
    snapshot = settle(settling, folder("ckpt-2/w.bin") | folder("log.txt", at=2))
    assert snapshot is not None
    assert snapshot.is_incomplete("ckpt-1/w.bin")
    assert {"ckpt-1/w.bin", "ckpt-1/b.json"} <= settling.taken.keys()
    # Once the new one is complete, the old one goes.
    snapshot = settle(
        settling, folder("ckpt-2/w.bin", "ckpt-2/b.json") | folder("log.txt", at=2), 9
    )
    assert snapshot is not None
    assert not any(path.startswith("ckpt-1") for path in settling.taken)


def test_content_of_saves_is_remembered_when_none_is_left() -> None:
    settling = judge()
    assert settle(settling, folder("ckpt-1/w.bin", "ckpt-1/b.json", "log.txt")) is not None
    assert settle(settling, folder("log.txt", at=2), 5) is not None  # removed before the next one
    snapshot = settle(settling, folder("ckpt-2/w.bin") | folder("log.txt", at=2), 10)
    assert snapshot is None
    assert settling.wholeness.reasons == ["ckpt-2 has no b.json, unlike the previous saves"]


def test_files_without_a_number_that_are_removed_before_a_save_are_expected_again() -> None:
    before = folder("last/a.bin", "last/b.json", "other.txt")
    settling = judge(before)
    half = folder("last/a.bin", at=2) | folder("other.txt")
    assert settle(settling, half) is None
    snapshot = settle(settling, folder("last/a.bin", "last/b.json", "other.txt", at=2), 10)
    assert snapshot is not None
    assert "last/b.json" in snapshot.view


def test_best_model_with_its_score_in_its_name_replaces_the_previous_one_at_once() -> None:
    before = folder("acc_0.95.pt", "last.pt")
    assert settle(judge(before), folder("acc_0.97.pt", "last.pt", at=2)) is not None


BROKEN = Verdict("zip", "its central directory, at the end, is missing")


def test_file_that_is_cut_off_by_its_format_is_left_out_and_named_permanently() -> None:
    before = folder("step-1.pt")
    knowing = Knowing(verdicts={"step-2.pt": BROKEN})
    settling = judge(before, knowing)
    view = before | folder("step-2.pt")
    assert settle(settling, view) is None
    late = 10 * MINUTE
    assert settling.observe(view, set(), late) is None
    assert settling.wholeness.lasting_problems(late) == [
        f"step-2.pt is an incomplete zip file: {BROKEN.problem}"
    ]
    snapshot = settle(settling, view | folder("step-3.pt"), late + 5)
    assert snapshot is not None
    assert "step-3.pt" in snapshot.view
    assert "step-2.pt" not in snapshot.view


def test_torn_file_without_a_number_delays_its_siblings_only_for_a_while() -> None:
    before = folder("model.pt", "optimizer.pt")
    settling = judge(before, Knowing(verdicts={"model.pt": BROKEN}))
    view = folder("model.pt", "optimizer.pt", at=2)
    assert settle(settling, view) is None
    snapshot = settling.observe(view, set(), MINUTE + 5)
    assert snapshot is not None
    assert "optimizer.pt" in snapshot.view
    assert snapshot.is_incomplete("model.pt")
    assert settling.taken["model.pt"] == before["model.pt"]


def test_uncertain_flaw_is_accepted_in_the_end() -> None:
    loose = replace(BROKEN, format="tar", is_certain=False)
    settling = judge({}, Knowing(verdicts={"step-1.tar": loose}))
    view = folder("step-1.tar")
    assert settle(settling, view) is None
    assert settling.observe(view, set(), MINUTE + 2) is not None


def test_after_a_kill_a_file_proven_by_its_format_counts_although_it_just_changed() -> None:
    proven = Verdict("zip", is_proven=True)
    settling = judge({}, Knowing(verdicts={"step-1.pt": proven}))
    view = folder("step-1.pt")
    assert settling.final(view, 9, torn=frozenset(), abrupt=True) is not None
    assert judge().final(view, 9, torn=frozenset(), abrupt=True) is None


def test_after_a_kill_saves_that_were_followed_by_another_count() -> None:
    view = folder("model.7", "model.8", "model.9")
    snapshot = judge().final(view, 9, torn=frozenset(), abrupt=True)
    assert snapshot is not None
    assert snapshot.view.keys() == {"model.7", "model.8"}


LAYOUTS = {
    "shards of an index": (
        folder("checkpoint-5/model.safetensors.index.json", "checkpoint-5/a.safetensors"),
        {"checkpoint-5/model.safetensors.index.json": '{"x":"a.safetensors","y":"b.safetensors"}'},
        folder("checkpoint-5/b.safetensors"),
        "b.safetensors, which checkpoint-5/",
    ),
    "numbered shards": (
        folder("checkpoint-5/model-00001-of-00002.bin"),
        {},
        folder("checkpoint-5/model-00002-of-00002.bin"),
        "1 of 2 shards",
    ),
    "Hugging Face Trainer": (
        folder("checkpoint-5/training_args.bin", "checkpoint-5/model.safetensors"),
        {},
        folder("checkpoint-5/trainer_state.json"),
        "trainer_state.json, which",
    ),
    "torch.distributed.checkpoint": (
        folder("step-5/__0_0.distcp", "step-5/__1_0.distcp"),
        {},
        folder("step-5/.metadata", at=2),
        ".metadata, which",
    ),
    "torch.distributed.checkpoint, overwritten": (
        {**folder("last/.metadata", at=1), **folder("last/__0_0.distcp", at=2)},
        {},
        folder("last/.metadata", at=3),
        "older than the records",
    ),
    "TensorFlow": (
        folder("ckpt-5.data-00000-of-00001"),
        {},
        folder("ckpt-5.index"),
        "ckpt-5.index is missing",
    ),
    "Orbax": (
        folder("5.orbax-checkpoint-tmp-12/state/d"),
        {},
        None,
        "is an unfinished Orbax save",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_a_library_shows_that_a_save_is_incomplete(layout: str) -> None:
    half, texts, rest, reason = LAYOUTS[layout]
    settling = judge({}, Knowing(texts=texts))
    assert settle(settling, half) is None
    assert reason in " ".join(settling.wholeness.reasons)
    if rest is None:
        rest = folder("5/state/d")
        half = {}
    snapshot = settle(settling, half | rest, 10)
    assert snapshot is not None
    assert not settling.wholeness.reasons


@pytest.mark.parametrize(
    ("tracker", "old", "new"),
    [
        ("latest", "global_step5", "global_step10"),
        ("latest_checkpointed_iteration.txt", "5", "10"),
        ("checkpoint", 'model_path: "global_step5"', 'model_path: "global_step10"'),
    ],
)  # fmt: skip
def test_save_is_complete_when_the_tracker_names_it(tracker: str, old: str, new: str) -> None:
    knowing = Knowing(texts={tracker: old})
    before = folder("global_step5/mp_rank_00_model_states.pt", tracker)
    settling = judge(before, knowing)
    view = before | folder("global_step10/mp_rank_00_model_states.pt")
    assert settle(settling, view) is None
    assert settling.wholeness.reasons == [f"{tracker} does not name global_step10 yet"]
    knowing.texts[tracker] = new
    assert settle(settling, view | folder(tracker, at=2), 10) is not None


def test_tracker_that_names_an_incomplete_save_stays_as_it_was() -> None:
    knowing = Knowing(texts={"latest": "global_step10"})
    before = folder("global_step5/a.pt", "global_step5/b.pt", "latest", "log.csv")
    settling = judge(before, knowing)
    view = before | folder("global_step10/a.pt") | folder("latest", "log.csv", at=2)
    snapshot = settle(settling, view)
    assert snapshot is not None
    assert "log.csv" in snapshot.view
    assert snapshot.is_incomplete("latest")
    assert settling.taken["latest"] == before["latest"]


def test_link_to_an_incomplete_save_stays_as_it_was() -> None:
    before = folder("step-1/a.pt", "step-1/b.pt", "log.csv")
    before["last"] = FileState("link", 0o777, 1, target="step-1")
    settling = judge(before)
    view = before | folder("step-2/a.pt") | folder("log.csv", at=2)
    view["last"] = FileState("link", 0o777, 2, target="step-2")
    snapshot = settle(settling, view)
    assert snapshot is not None
    assert settling.taken["last"].target == "step-1"


def test_only_lasting_problems_are_reported() -> None:
    settling = judge(folder("ckpt-1/a", "ckpt-1/b"))
    view = folder("ckpt-1/a", "ckpt-1/b", "ckpt-2/a")
    settle(settling, view)
    wholeness = settling.wholeness
    assert wholeness.lasting_problems(5) == []
    assert wholeness.lasting_problems(5 + WORTH_SAYING.total_seconds()) == [
        "ckpt-2 has no b, unlike the previous saves"
    ]


@pytest.mark.parametrize(
    ("path", "save"),
    [
        ("ckpt-2/a.bin", "ckpt-2"),
        ("out/checkpoint-500/global_step500/x.pt", "out/checkpoint-500"),
        ("resnet50/weights_5.h5", "resnet50/weights_5.h5"),
        ("2024-01-01/12-00-00/ckpt/step_5.pt", "2024-01-01/12-00-00/ckpt/step_5.pt"),
        ("lightning_logs/version_0/checkpoints/epoch=1-step=100.ckpt",
         "lightning_logs/version_0/checkpoints/step=100"),
        ("epoch=3-val_loss=0.25.ckpt", "epoch_3"),
        ("save_5/layer_3.pt", "save_5"),
        ("rank0_step_5/x.bin", "rank1_step_5/y.bin"),
    ],
)  # fmt: skip
def test_files_of_one_save_are_grouped_by_their_number(path: str, save: str) -> None:
    assert save_of(path) == save_of(save)


@pytest.mark.parametrize(
    "path",
    ["model.safetensors", "model-00001-of-00004.safetensors", "best_0.953.pt", "run-3/model.pt",
     "20240101-120000/model.pt", "version_2/hparams.yaml", "events.out.tfevents.1700000000.h.1.0"],
)  # fmt: skip
def test_other_numbers_do_not_identify_a_save(path: str) -> None:
    assert place_of(path).number is None


def test_folder_with_more_names_than_can_be_watched_is_refused_with_a_remedy(tmp_path) -> None:
    for number in range(30):
        (tmp_path / f"{number}").touch()
    assert len(scan_folder(tmp_path, most=30)) == 30
    with pytest.raises(CheckpointError, match=r"more than 20 files.*pack small files"):
        scan_folder(tmp_path, most=20)
